/** The loudspeaker, and with it the clock of the call: everything else follows what the ear hears. */

import type { MediaPacket } from './protocol';
import type { PlayoutCommand, PlayoutMessage } from './worklets/playout';
import type { PlayoutState } from './playout';
import worklet from './worklets/playout.ts?worker&url';

const UNKNOWN_OUTPUT_LATENCY_SECONDS = 0.03; // added to baseLatency where outputLatency is not told (Safari)

export class Speaker {
  /** The state or the position changed. Called about every 50 ms while it plays, hidden tab or not. */
  onprogress: () => void = () => {};
  /** The last sample of the reply has been heard. */
  onended: (epoch: number) => void = () => {};

  readonly #context: AudioContext;
  readonly #node: AudioWorkletNode;
  #last: PlayoutMessage = {
    state: 'idle',
    epoch: 0,
    played_ms: 0,
    buffered_ms: 0,
    underruns: 0,
    overflows: 0,
    at: 0,
  };
  #epoch = 0;
  #heard_ms = 0;
  #live = false; // false as soon as a reply is stopped, whatever the audio thread still says

  private constructor(context: AudioContext) {
    this.#context = context;
    this.#node = new AudioWorkletNode(context, 'playout', {
      numberOfInputs: 0,
      outputChannelCount: [1],
    });
    this.#node.port.onmessage = ({ data }: MessageEvent<PlayoutMessage>) => this.#onMessage(data);
    this.#node.connect(context.destination);
    context.onstatechange = () => this.onprogress();
  }

  static async open(sampleRate_hz: number): Promise<Speaker> {
    const context = new AudioContext({ sampleRate: sampleRate_hz, latencyHint: 'interactive' });
    void context.resume(); // never settles while the browser wants a click first: see `blocked`
    await context.audioWorklet.addModule(worklet);
    return new Speaker(context);
  }

  get sampleRate_hz(): number {
    return this.#context.sampleRate;
  }

  /** The browser wants a click before it plays sound. */
  get blocked(): boolean {
    return this.#context.state !== 'running';
  }

  get state(): PlayoutState {
    return this.#last.epoch === this.#epoch ? this.#last.state : 'waiting';
  }

  get underruns(): number {
    return this.#last.underruns;
  }

  get latency_ms(): number {
    const context = this.#context;
    const seconds =
      context.outputLatency || (context.baseLatency || 0) + UNKNOWN_OUTPUT_LATENCY_SECONDS;
    return seconds * 1000;
  }

  /** The position in the reply that the ear is at, now. */
  get heard_ms(): number {
    const { state, epoch, played_ms, buffered_ms, at } = this.#last;
    if (!this.#live || epoch !== this.#epoch || at === 0) return this.#heard_ms;
    const since = (this.#context.currentTime - at) * 1000;
    const end = state === 'playing' ? played_ms + buffered_ms : played_ms;
    const heard = Math.min(end, played_ms + since - this.latency_ms);
    this.#heard_ms = Math.max(this.#heard_ms, heard);
    return this.#heard_ms;
  }

  async unlock(): Promise<void> {
    await this.#context.resume();
  }

  begin(epoch: number): void {
    this.#epoch = epoch;
    this.#heard_ms = 0;
    this.#live = true;
    this.#send({ do: 'begin', epoch });
  }

  push(packet: MediaPacket): void {
    const pcm = new Int16Array(packet.payload.slice().buffer, 0, packet.payload.byteLength >> 1);
    const { epoch, pts_ms } = packet;
    this.#send({ do: 'push', epoch, pts_ms, pcm }, [pcm.buffer]);
  }

  finish(epoch: number, duration_ms: number): void {
    this.#send({ do: 'finish', epoch, duration_ms });
  }

  release(): void {
    this.#send({ do: 'release' });
  }

  pause(): void {
    this.#send({ do: 'pause' });
  }

  resume(): void {
    this.#send({ do: 'resume' });
  }

  /** Silent at once; returns the position that was heard. */
  stop(): number {
    const heard = this.heard_ms;
    this.#live = false;
    this.#send({ do: 'stop' });
    return heard;
  }

  async close(): Promise<void> {
    this.onprogress = () => {};
    this.onended = () => {};
    this.#node.disconnect();
    await this.#context.close();
  }

  #send(command: PlayoutCommand, transfer: Transferable[] = []): void {
    this.#node.port.postMessage(command, transfer);
  }

  #onMessage(message: PlayoutMessage): void {
    const wasEnded = this.#last.state === 'ended' && this.#last.epoch === message.epoch;
    this.#last = message;
    if (message.state === 'ended' && !wasEnded && this.#live && message.epoch === this.#epoch) {
      const { epoch } = message;
      setTimeout(() => {
        if (this.#live && epoch === this.#epoch) this.onended(epoch);
      }, this.latency_ms);
    }
    this.onprogress();
  }
}
