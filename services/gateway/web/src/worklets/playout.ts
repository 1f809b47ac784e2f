/** Runs on the audio thread: plays one reply after the other and says where it is. */

import { Playout, type PlayoutStatus } from '../playout';

export type PlayoutCommand =
  | { do: 'begin'; epoch: number }
  | { do: 'push'; epoch: number; pts_ms: number; pcm: Int16Array }
  | { do: 'finish'; epoch: number; duration_ms: number }
  | { do: 'release' | 'pause' | 'resume' | 'stop' };

/** `at`: the context's time at which the sample at `played_ms` is given to the device. */
export type PlayoutMessage = PlayoutStatus & { at: number };

const BLOCKS_PER_MESSAGE = 8; // 46 ms at 22,050 Hz; a change of state is told at once

class PlayoutProcessor extends AudioWorkletProcessor {
  readonly #playout = new Playout(sampleRate);
  #told: PlayoutStatus = this.#playout.status;
  #blocks = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<PlayoutCommand>) => this.#obey(data);
  }

  #obey(command: PlayoutCommand): void {
    switch (command.do) {
      case 'begin':
        return this.#playout.begin(command.epoch);
      case 'push':
        return this.#playout.push(command.epoch, command.pts_ms, command.pcm);
      case 'finish':
        return this.#playout.finish(command.epoch, command.duration_ms);
      default:
        return this.#playout[command.do]();
    }
  }

  process(_inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const channels = outputs[0] ?? [];
    const first = channels[0];
    if (!first) return true;
    this.#playout.render(first);
    for (const channel of channels.slice(1)) channel.set(first);
    this.#tell(first.length);
    return true;
  }

  #tell(block: number): void {
    const status = this.#playout.status;
    const changed = status.state !== this.#told.state || status.epoch !== this.#told.epoch;
    if (!changed && (status.state !== 'playing' || ++this.#blocks < BLOCKS_PER_MESSAGE)) return;
    this.#blocks = 0;
    this.#told = status;
    const message: PlayoutMessage = { ...status, at: currentTime + block / sampleRate };
    this.port.postMessage(message);
  }
}

registerProcessor('playout', PlayoutProcessor);
