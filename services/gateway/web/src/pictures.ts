/**
 * Decodes the pictures of a reply, a few ahead of the clock, and hands out the one that is due.
 *
 * Encoded pictures wait here rather than decoded ones: a decoder in hardware owns few surfaces, and stops when
 * they are all held.
 */

import type { Codec, MediaPacket, VideoFormat } from './protocol';

const DECODED_AHEAD = 8; // 320 ms at 25 pictures a second
const LATEST_MS = 200;
const ENCODED_MAX = 512; // 20 s; the gateway runs 0.6 s ahead

export interface Picture {
  pts_ms: number;
  loop_frame: number;
  image: VideoFrame | ImageBitmap;
}

type Source = Omit<MediaPacket, 'kind' | 'epoch'>;

/** Turns one encoded picture after the other into an image, in order. */
interface Decoder {
  /** Given, but not yet given back. */
  readonly pending: number;
  decode(source: Source): void;
  /** No more will come: give back what is held. */
  flush(): void;
  close(): void;
}

export class Pictures {
  /** A picture was decoded: it may be due. */
  ondecoded: () => void = () => {};
  /** The decoder cannot read this codec after all. */
  onfailed: (codec: Codec) => void = () => {};
  /** Came too late for the clock, or did not fit. */
  dropped = 0;

  readonly #format: VideoFormat;
  #encoded: Source[] = [];
  #decoded: Picture[] = [];
  #decoder: Decoder | null = null;
  #complete = false;
  #needsKeyframe = true;
  #everDecoded = false;

  constructor(format: VideoFormat) {
    this.#format = format;
  }

  get ready(): number {
    return this.#decoded.length;
  }

  push(source: Source): void {
    if (this.#encoded.length >= ENCODED_MAX) {
      this.dropped += this.#encoded.length;
      this.#encoded = [];
      this.#needsKeyframe = true;
    }
    this.#encoded.push(source);
    this.#feed();
  }

  /** All pictures of the reply are here. */
  finish(): void {
    this.#complete = true;
    this.#feed();
  }

  /** The newest picture that is due at this time; the ones before it are late and dropped. The caller closes it. */
  due(clock_ms: number): Picture | null {
    let newest: Picture | null = null;
    while (this.#decoded[0] && this.#decoded[0].pts_ms <= clock_ms) {
      if (newest) {
        newest.image.close();
        this.dropped++;
      }
      newest = this.#decoded.shift()!;
    }
    if (!newest) return null;
    this.#feed();
    if (clock_ms - newest.pts_ms <= LATEST_MS) return newest;
    newest.image.close(); // better no moving mouth than one that says something else
    this.dropped++;
    return null;
  }

  /** Forgets everything; what is still in the decoder is lost. */
  clear(): void {
    this.#encoded = [];
    for (const picture of this.#decoded) picture.image.close();
    this.#decoded = [];
    this.#decoder?.close();
    this.#decoder = null;
    this.#complete = false;
    this.#needsKeyframe = true;
  }

  #feed(): void {
    while (this.#encoded.length && this.#decoded.length + (this.#decoder?.pending ?? 0) < DECODED_AHEAD) {
      const source = this.#encoded.shift()!;
      if (this.#needsKeyframe && !source.keyframe && this.#format.codec !== 'jpeg') {
        this.dropped++;
        continue;
      }
      this.#needsKeyframe = false;
      this.#decoder ??= this.#openDecoder();
      this.#decoder.decode(source);
    }
    if (this.#complete && this.#encoded.length === 0 && this.#decoder) {
      this.#complete = false;
      this.#needsKeyframe = true;
      this.#decoder.flush();
    }
  }

  #openDecoder(): Decoder {
    const decoded = (picture: Picture) => {
      this.#everDecoded = true;
      this.#decoded.push(picture);
      this.#feed();
      this.ondecoded();
    };
    const failed = () => {
      this.#decoder = null;
      this.#needsKeyframe = true;
      if (!this.#everDecoded) this.onfailed(this.#format.codec);
    };
    return this.#format.codec === 'jpeg'
      ? new JpegDecoder(decoded)
      : new FilmDecoder(this.#format, decoded, failed);
  }
}

/** H.264 and VP8, by WebCodecs. */
class FilmDecoder implements Decoder {
  readonly #decoder: VideoDecoder;
  readonly #sources = new Map<number, Source>(); // by time stamp, in microseconds

  constructor(format: VideoFormat, decoded: (picture: Picture) => void, failed: () => void) {
    this.#decoder = new VideoDecoder({
      output: (frame) => {
        const source = this.#sources.get(frame.timestamp);
        this.#sources.delete(frame.timestamp);
        if (source) decoded({ pts_ms: source.pts_ms, loop_frame: source.loop_frame, image: frame });
        else frame.close();
      },
      error: failed,
    });
    this.#decoder.configure(filmConfig(format.webcodecs));
  }

  get pending(): number {
    return this.#sources.size;
  }

  decode(source: Source): void {
    if (this.#decoder.state !== 'configured') return;
    const timestamp = Math.round(source.pts_ms * 1000);
    this.#sources.set(timestamp, source);
    this.#decoder.decode(
      new EncodedVideoChunk({ type: source.keyframe ? 'key' : 'delta', timestamp, data: source.payload }),
    );
  }

  flush(): void {
    // Rejected when a stop closes the decoder first: there is nothing more to show then.
    if (this.#decoder.state === 'configured') this.#decoder.flush().catch(() => {});
  }

  close(): void {
    this.#sources.clear();
    if (this.#decoder.state !== 'closed') this.#decoder.close();
  }
}

class JpegDecoder implements Decoder {
  readonly #decoded: (picture: Picture) => void;
  #pending = 0;
  #closed = false;
  #queue: Promise<void> = Promise.resolve();

  constructor(decoded: (picture: Picture) => void) {
    this.#decoded = decoded;
  }

  get pending(): number {
    return this.#pending;
  }

  decode(source: Source): void {
    this.#pending++;
    const image = createImageBitmap(new Blob([source.payload], { type: 'image/jpeg' })).catch(() => null);
    this.#queue = this.#queue.then(async () => this.#hand(source, await image)); // in order
  }

  #hand(source: Source, image: ImageBitmap | null): void {
    this.#pending--;
    if (this.#closed) image?.close();
    else if (image) this.#decoded({ pts_ms: source.pts_ms, loop_frame: source.loop_frame, image });
  }

  flush(): void {}

  close(): void {
    this.#closed = true;
  }
}

/** For `VideoDecoder`; H.264 without a description is Annex B. */
function filmConfig(codec: string): VideoDecoderConfig {
  return { codec, optimizeForLatency: true };
}

/** What this browser can decode, best first. JPEG always. */
export async function decodableCodecs(): Promise<Codec[]> {
  const films: [Codec, string][] = [
    ['h264', 'avc1.42E01F'],
    ['vp8', 'vp8'],
  ];
  const codecs: Codec[] = [];
  if ('VideoDecoder' in globalThis) {
    for (const [codec, webcodecs] of films) {
      const support = await VideoDecoder.isConfigSupported(filmConfig(webcodecs)).catch(() => null);
      if (support?.supported) codecs.push(codec);
    }
  }
  return [...codecs, 'jpeg'];
}
