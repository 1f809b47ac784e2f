/** The call as the page sees it: one reactive snapshot, and the measurements that tests read. */

import { Call, type CallView } from './call';
import { Face } from './face';
import { Microphone } from './microphone';
import { decodableCodecs } from './pictures';
import { Speaker } from './speaker';

export const face = new Face();

export const call = new Call({
  socket: () => new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/call`),
  speaker: (sampleRate_hz) => Speaker.open(sampleRate_hz),
  microphone: () => Microphone.open(),
  face,
  codecs: decodableCodecs,
  now: () => performance.now(),
});

class Store {
  view: CallView = $state.raw(call.view);
}

export const store = new Store();
call.onchange = (view) => (store.view = view);

addEventListener('offline', () => call.networkGone());
addEventListener('online', () => call.retryNow());
addEventListener('pagehide', () => call.hangUp());

/** Read-only, for tests and for the curious. */
export interface Measurements {
  readonly state: string;
  readonly activity: string;
  readonly epoch: number;
  readonly codec: string | null;
  readonly playout: string;
  readonly playedMs: number;
  readonly loopFrame: number;
  readonly droppedFrames: number;
  readonly drawnFrames: number;
  readonly fps: number;
  readonly underruns: number;
  readonly avOffsetsMs: readonly number[];
  readonly seamFrames: readonly number[];
  readonly outputLatencyMs: number;
  readonly timings: Readonly<Record<string, number>>;
  readonly captions: { user: string; agent: string; lines: readonly string[] };
}

export function measurements(): Measurements {
  const { view, speaker, epoch } = call;
  return {
    state: view.state,
    activity: view.activity,
    epoch,
    codec: face.codec,
    playout: speaker?.state ?? 'idle',
    playedMs: speaker?.heard_ms ?? 0,
    loopFrame: face.loop_frame,
    droppedFrames: face.dropped,
    drawnFrames: face.drawn,
    fps: face.fps,
    underruns: speaker?.underruns ?? 0,
    avOffsetsMs: face.offsets_ms,
    seamFrames: face.seams,
    outputLatencyMs: speaker instanceof Speaker ? speaker.latency_ms : 0,
    timings: view.timings,
    captions: {
      user: view.partial,
      agent: view.words
        .filter((word) => word.state !== 'coming')
        .map((word) => word.text)
        .join(' '),
      lines: view.lines.map((line) => `${line.who}: ${line.text}`),
    },
  };
}

Object.defineProperty(window, '__visavis', { get: measurements });
