/** The microphone: 20 ms blocks of 16 kHz PCM16, echo cancelled by the browser. */

import worklet from './worklets/capture.ts?worker&url';

const BLOCK_MS = 20;

/** Why there is no microphone. */
export type MicrophoneTrouble = 'denied' | 'missing' | 'busy' | 'lost';

export class MicrophoneError extends Error {
  constructor(readonly trouble: MicrophoneTrouble) {
    super(trouble);
  }
}

export class Microphone {
  onblock: (pts_ms: number, pcm: ArrayBuffer) => void = () => {};
  /** Unplugged, or taken away by the system or the user. */
  onlost: () => void = () => {};

  readonly #stream: MediaStream;
  readonly #context: AudioContext;
  readonly #meter: AnalyserNode;
  readonly #meterSamples = new Float32Array(512);
  #blocks = 0;

  private constructor(stream: MediaStream, context: AudioContext) {
    this.#stream = stream;
    this.#context = context;
    const source = context.createMediaStreamSource(stream);
    const capture = new AudioWorkletNode(context, 'capture', {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: 'explicit',
    });
    capture.port.onmessage = ({ data }: MessageEvent<ArrayBuffer>) =>
      this.onblock(this.#blocks++ * BLOCK_MS, data);
    this.#meter = context.createAnalyser();
    this.#meter.fftSize = this.#meterSamples.length;
    source.connect(capture);
    source.connect(this.#meter);
    for (const track of stream.getAudioTracks()) track.onended = () => this.onlost();
    // A phone call or a sleeping tab can suspend the context: go on when it is over.
    context.onstatechange = () => {
      if (context.state === 'suspended') void context.resume();
    };
  }

  /** Asks for the microphone. Throws a MicrophoneError that says what is in the way. */
  static async open(): Promise<Microphone> {
    if (!navigator.mediaDevices?.getUserMedia) throw new MicrophoneError('missing');
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
      });
    } catch (error) {
      throw new MicrophoneError(troubleOf(error));
    }
    // A context of its own, at the device's rate: Firefox joins no microphone to another rate.
    const context = new AudioContext({ latencyHint: 'interactive' });
    void context.resume();
    await context.audioWorklet.addModule(worklet);
    return new Microphone(stream, context);
  }

  /** Muted, it goes on to send blocks, of silence, so that the clock of its samples runs on. */
  set muted(muted: boolean) {
    for (const track of this.#stream.getAudioTracks()) track.enabled = !muted;
  }

  /** 0 to 1, for the meter. */
  get level(): number {
    this.#meter.getFloatTimeDomainData(this.#meterSamples);
    let sum = 0;
    for (const sample of this.#meterSamples) sum += sample * sample;
    const db = 10 * Math.log10(sum / this.#meterSamples.length + 1e-9);
    return Math.max(0, Math.min(1, (db + 60) / 45));
  }

  async close(): Promise<void> {
    this.onblock = () => {};
    this.onlost = () => {};
    for (const track of this.#stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    this.#context.onstatechange = null;
    await this.#context.close();
  }
}

function troubleOf(error: unknown): MicrophoneTrouble {
  const name = error instanceof DOMException ? error.name : '';
  if (name === 'NotAllowedError' || name === 'SecurityError') return 'denied';
  if (name === 'NotReadableError' || name === 'AbortError') return 'busy';
  return 'missing';
}
