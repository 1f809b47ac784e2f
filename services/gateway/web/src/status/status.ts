/** What `GET /v1/status` tells. */

export interface Worker {
  worker_id: string;
  address: string;
  backend: string;
  slots: number;
  used: number;
  p95_ms: number | null;
}

export interface Service {
  name: string;
  healthy: boolean;
  workers: Worker[];
}

export interface Latency {
  p50: number;
  p95: number;
  count: number;
}

export interface Status {
  gateway: { sessions: number; max_sessions: number; uptime_seconds: number };
  services: Service[];
  redis: { healthy: boolean };
  latencies_ms: Record<string, Latency>;
}

export async function fetchStatus(): Promise<Status> {
  const response = await fetch('/v1/status', { signal: AbortSignal.timeout(3000) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()) as Status;
}

export function duration(seconds: number): string {
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (hours >= 24) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  if (hours > 0) return `${hours} h ${minutes % 60} min`;
  return minutes > 0 ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}
