/**
 * The buffer between the network and the loudspeaker: samples of one reply, placed by their time stamps.
 *
 * Plain code without Web Audio, so that it can be tested; `worklets/playout.ts` runs it on the audio thread.
 */

export const PREBUFFER_MS = 100;
export const PICTURE_WAIT_MS = 150;
const ROUNDING_MS = 20; // a reply that is this much shorter than announced is complete
const MISSING_LIMIT_MS = 2000; // then the rest of a finished reply is not coming
const FADE_MS = 5; // a sound that is cut clicks; one that is faded over 5 ms does not
const CAPACITY_SECONDS = 60; // the gateway runs 1.5 s ahead; this is the fuse

/** `waiting`: for enough sound, or for the first picture. */
export type PlayoutState = 'idle' | 'waiting' | 'playing' | 'paused' | 'ended';

export interface PlayoutStatus {
  state: PlayoutState;
  epoch: number;
  played_ms: number;
  buffered_ms: number;
  underruns: number;
  overflows: number;
}

export class Playout {
  readonly #hz: number;
  readonly #ring: Float32Array;
  readonly #fade: number;
  #state: PlayoutState = 'idle';
  #paused_from: PlayoutState = 'idle';
  #epoch = 0;
  #played = 0; // samples of this reply that were played; all positions count from its first sample
  #written = 0;
  #total = Infinity;
  #released = false; // the first picture is there, or there will be none
  #ready_for = 0; // samples that it could have played while it waited for the picture
  #short_for = 0; // samples that it has waited for sound
  #fade_in = 0;
  #tail: Float32Array = new Float32Array(0); // fading out while already silent
  #tail_at = 0;
  #last = 0;
  #underruns = 0;
  #overflows = 0;

  constructor(sampleRate_hz: number) {
    this.#hz = sampleRate_hz;
    this.#ring = new Float32Array(Math.ceil(sampleRate_hz * CAPACITY_SECONDS));
    this.#fade = Math.max(1, Math.round(this.#samples(FADE_MS)));
  }

  get status(): PlayoutStatus {
    return {
      state: this.#state,
      epoch: this.#epoch,
      played_ms: (this.#played / this.#hz) * 1000,
      buffered_ms: ((this.#written - this.#played) / this.#hz) * 1000,
      underruns: this.#underruns,
      overflows: this.#overflows,
    };
  }

  /** A reply begins: what was left of an older one fades out. */
  begin(epoch: number): void {
    this.stop();
    this.#epoch = epoch;
    this.#played = this.#written = this.#ready_for = this.#short_for = 0;
    this.#total = Infinity;
    this.#released = false;
    this.#state = 'waiting';
  }

  /** Places samples at their time stamp. Twice sent samples are dropped, gaps become silence. */
  push(epoch: number, pts_ms: number, pcm: Int16Array): void {
    if (epoch !== this.#epoch || this.#state === 'idle' || this.#state === 'ended') return;
    let at = Math.round((pts_ms * this.#hz) / 1000);
    if (Math.abs(at - this.#written) <= 2) at = this.#written; // a rounded time stamp is no gap
    for (; this.#written < at; this.#written++) this.#put(0);
    for (let i = this.#written - at; i < pcm.length; i++, this.#written++) this.#put(pcm[i]! / 32768);
  }

  #put(sample: number): void {
    if (this.#written - this.#played >= this.#ring.length) {
      this.#overflows++;
      return;
    }
    this.#ring[this.#written % this.#ring.length] = sample;
  }

  /** All of the reply was sent: it is this long. */
  finish(epoch: number, duration_ms: number): void {
    if (epoch === this.#epoch) this.#total = Math.round((duration_ms * this.#hz) / 1000);
  }

  /** The first picture is ready to be shown: sound need not wait for it. */
  release(): void {
    this.#released = true;
  }

  pause(): void {
    if (this.#state !== 'playing' && this.#state !== 'waiting') return;
    this.#fadeOut();
    this.#paused_from = this.#state;
    this.#state = 'paused';
  }

  /** Goes on from the very sample at which it was paused. */
  resume(): void {
    if (this.#state !== 'paused') return;
    this.#state = this.#paused_from;
    this.#fade_in = this.#fade;
  }

  /** Silent at once; all that is buffered is dropped. */
  stop(): void {
    this.#fadeOut();
    this.#written = this.#played;
    if (this.#state !== 'idle') this.#state = 'ended';
  }

  /** Fills one block of sound. */
  render(output: Float32Array): void {
    if (this.#state === 'waiting') this.#startIfReady(output.length);
    for (let i = 0; i < output.length; i++) {
      let sample = this.#state === 'playing' ? this.#next() : 0;
      if (this.#tail_at < this.#tail.length) sample += this.#tail[this.#tail_at++]!;
      output[i] = sample;
    }
  }

  #startIfReady(block: number): void {
    const buffered = this.#written - this.#played;
    if (!this.#complete && buffered < this.#samples(PREBUFFER_MS)) {
      this.#short_for += block;
      if (this.#total === Infinity || this.#short_for < this.#samples(MISSING_LIMIT_MS)) return;
      this.#total = this.#written;
    }
    this.#ready_for += block;
    if (!this.#released && this.#ready_for < this.#samples(PICTURE_WAIT_MS)) return;
    this.#released = true; // after an underrun only sound is waited for
    this.#short_for = 0;
    this.#state = 'playing';
  }

  get #complete(): boolean {
    return this.#written >= this.#total - this.#samples(ROUNDING_MS);
  }

  #samples(ms: number): number {
    return (ms * this.#hz) / 1000;
  }

  #next(): number {
    if (this.#played >= this.#written) {
      if (this.#complete) {
        this.#state = 'ended';
        return 0;
      }
      this.#underruns++;
      this.#state = 'waiting';
      this.#fade_in = this.#fade;
      this.#setTail((i) => this.#last * (1 - i / this.#fade));
      return 0;
    }
    let sample = this.#ring[this.#played++ % this.#ring.length]!;
    if (this.#fade_in > 0) sample *= 1 - this.#fade_in-- / this.#fade;
    this.#last = sample;
    return sample;
  }

  #fadeOut(): void {
    if (this.#state !== 'playing') return;
    const length = Math.min(this.#fade, this.#written - this.#played);
    this.#setTail((i) =>
      i < length ? this.#ring[(this.#played + i) % this.#ring.length]! * (1 - i / this.#fade) : 0,
    );
  }

  #setTail(sample: (i: number) => number): void {
    this.#tail = Float32Array.from({ length: this.#fade }, (_, i) => sample(i));
    this.#tail_at = 0;
  }
}
