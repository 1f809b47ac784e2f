/** What can go wrong, each as one sentence for a person. */

import type { MicrophoneTrouble } from './microphone';
import type { ErrorEvent } from './protocol';

export interface Problem {
  kind: 'microphone' | 'connection' | 'server' | 'notice';
  text: string;
  /** When it is tried again by itself, on `performance.now()`'s clock. */
  retry_at?: number;
}

const MICROPHONE: Record<MicrophoneTrouble, string> = {
  denied: 'The browser does not let this page use the microphone. You can type instead, or allow it and try again.',
  missing: 'No microphone was found. You can type instead.',
  busy: 'Another program is using the microphone. You can type instead, or close that program and try again.',
  lost: 'The microphone was disconnected. You can type instead, or plug it in and try again.',
};

export function microphoneProblem(trouble: MicrophoneTrouble): Problem {
  return { kind: 'microphone', text: MICROPHONE[trouble] };
}

export function lostProblem(restarting: boolean, everStarted: boolean, retry_at: number): Problem {
  const text = restarting
    ? 'The server is restarting. Your call goes on as soon as it is back.'
    : everStarted
      ? 'The connection was lost. Connecting again…'
      : 'The server cannot be reached. Trying again…';
  return { kind: 'connection', text, retry_at };
}

/** The server cannot take the call yet, and said when to try again. */
export function laterProblem(error: ErrorEvent, retry_at: number): Problem {
  const text =
    error.code === 'server_full'
      ? 'Everyone is in a call right now. Trying again as soon as a place may be free.'
      : errorText(error);
  return { kind: 'server', text, retry_at };
}

export const GIVEN_UP = 'The server could not be reached for two minutes. Please try again later.';
export const HISTORY_LOST: Problem = {
  kind: 'notice',
  text: 'You are connected again, but the earlier conversation had expired: this is a new one.',
};

/** For an error that ends the call or that passes; the server's own words where it knows better. */
export function errorText(error: ErrorEvent): string {
  switch (error.code) {
    case 'unknown_persona':
      return 'This person is not here any more. Please choose somebody else.';
    case 'unsupported':
      return error.message || 'This page and the server do not fit together. Please reload the page.';
    case 'bad_message':
      return 'The server did not understand this page. Please reload it.';
    case 'session_expired':
      return 'This call has ended because it had been silent or away for too long.';
    case 'server_full':
      return 'Everyone is in a call right now. Please try again later.';
    default:
      return error.message || 'Something went wrong on the server.';
  }
}

/** Why this browser cannot hold a call, or null. */
export function browserProblem(): string | null {
  if (!globalThis.isSecureContext) {
    return 'A call needs a secure page: open this address with https://, or on the server’s own machine as localhost.';
  }
  if (!('AudioWorkletNode' in globalThis) || !('WebSocket' in globalThis)) {
    return 'This browser is too old for a call. A current Chrome, Edge, Firefox or Safari will do.';
  }
  return null;
}
