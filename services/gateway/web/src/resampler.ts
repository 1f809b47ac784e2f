/** Streaming low-pass and resampling from the microphone's rate to the protocol's, in blocks of any size. */

const ZERO_CROSSINGS = 12; // on each side of the kernel; 0.75 ms of delay at 16 kHz
const PASS_BAND = 0.92; // of the lower Nyquist frequency: leaves the kernel room to fall off

export class Resampler {
  readonly #step: number; // input samples per output sample, as a fraction: step / phases
  readonly #phases: number;
  readonly #half: number;
  readonly #kernels: Float32Array[]; // one per phase; each sums to 1, so that the level stays
  #held: Float32Array; // the input that later outputs still need
  #position: number; // of the next output, in 1/phases of an input sample, from the start of #held

  constructor(from_hz: number, to_hz: number) {
    const divisor = gcd(Math.round(from_hz), Math.round(to_hz));
    this.#phases = Math.round(to_hz) / divisor;
    this.#step = Math.round(from_hz) / divisor;
    const cutoff = Math.min(1, to_hz / from_hz) * PASS_BAND;
    this.#half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.#kernels = Array.from({ length: this.#phases }, (_, phase) =>
      kernel(this.#half, cutoff, phase / this.#phases),
    );
    this.#held = new Float32Array(this.#half);
    this.#position = this.#half * this.#phases;
  }

  process(input: Float32Array): Float32Array {
    const all = new Float32Array(this.#held.length + input.length);
    all.set(this.#held);
    all.set(input, this.#held.length);
    const output: number[] = [];
    for (;;) {
      const centre = Math.floor(this.#position / this.#phases);
      if (centre + this.#half >= all.length) break;
      const taps = this.#kernels[this.#position % this.#phases]!;
      let sum = 0;
      for (let i = 0, at = centre - this.#half; i < taps.length; i++, at++) sum += taps[i]! * all[at]!;
      output.push(sum);
      this.#position += this.#step;
    }
    const keepFrom = Math.max(0, Math.floor(this.#position / this.#phases) - this.#half);
    this.#held = all.slice(keepFrom);
    this.#position -= keepFrom * this.#phases;
    return Float32Array.from(output);
  }
}

function kernel(half: number, cutoff: number, shift: number): Float32Array {
  const taps = new Float32Array(2 * half + 1);
  let sum = 0;
  for (let i = 0; i < taps.length; i++) {
    const x = i - half - shift;
    const window = Math.abs(x) < half ? 0.5 + 0.5 * Math.cos((Math.PI * x) / half) : 0;
    const sinc = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
    sum += taps[i] = sinc * window;
  }
  return taps.map((tap) => tap / sum);
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** Cuts a stream of samples into PCM16 blocks of one size. */
export class PcmBlocks {
  readonly #block: Int16Array<ArrayBuffer>;
  #filled = 0;

  constructor(samplesPerBlock: number) {
    this.#block = new Int16Array(samplesPerBlock);
  }

  push(samples: Float32Array): Int16Array<ArrayBuffer>[] {
    const full: Int16Array<ArrayBuffer>[] = [];
    for (const sample of samples) {
      this.#block[this.#filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
      if (this.#filled === this.#block.length) {
        full.push(this.#block.slice());
        this.#filled = 0;
      }
    }
    return full;
  }
}
