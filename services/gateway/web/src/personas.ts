/** Who can be called. */

export interface Persona {
  id: string;
  name: string;
  poster_url: string;
}

/** The server's personas; none if it does not tell, and then its default one answers. */
export async function fetchPersonas(): Promise<Persona[]> {
  try {
    const response = await fetch('/v1/personas', { headers: { accept: 'application/json' } });
    if (!response.ok) return [];
    const personas: unknown = await response.json();
    return Array.isArray(personas) ? (personas as Persona[]) : [];
  } catch {
    return []; // the call itself will say what is wrong
  }
}
