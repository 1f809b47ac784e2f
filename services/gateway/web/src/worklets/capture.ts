/** Runs on the audio thread: the microphone at the device's rate in, 20 ms blocks of 16 kHz PCM16 out. */

import { PcmBlocks, Resampler } from '../resampler';

const MIC_HZ = 16_000;
const BLOCK_SAMPLES = 320;

class Capture extends AudioWorkletProcessor {
  readonly #resampler = new Resampler(sampleRate, MIC_HZ);
  readonly #blocks = new PcmBlocks(BLOCK_SAMPLES);
  readonly #silence = new Float32Array(128);

  process(inputs: Float32Array[][]): boolean {
    // A microphone that gives nothing (muted, unplugged) still gives silence: the clock runs on.
    const input = inputs[0]?.[0] ?? this.#silence;
    for (const block of this.#blocks.push(this.#resampler.process(input))) {
      this.port.postMessage(block.buffer, [block.buffer]);
    }
    return true;
  }
}

registerProcessor('capture', Capture);
