/**
 * The picture: an idle film that loops by itself, and over it a canvas for the pictures of a reply.
 *
 * The canvas follows the clock of the sound. It fades in when a reply starts and out when it ends; under it the film
 * is moved to the very frame on which the reply left off, so that nobody sees the seam.
 */

import { Pictures, type Picture } from './pictures';
import type { Codec, IdleLoop, MediaPacket, VideoFormat } from './protocol';

const FADE_IN_MS = 80;
const FADE_OUT_MS = 120;
const SEEK_LIMIT_MS = 150; // a mouth must not stay open while a film looks for its frame
const STARVED_MS = 500; // sound without new pictures: back to the film
const OFFSETS_KEPT = 4000;

/** `film`: only the film is seen. `leaving`: the film looks for its frame, then the canvas fades. */
type FaceState = 'film' | 'reply' | 'leaving';

export interface FaceClock {
  heard_ms: number;
  playing: boolean;
}

export class Face {
  /** A reply's first picture can be shown. */
  onfirstpicture: () => void = () => {};
  onfailed: (codec: Codec) => void = () => {};
  clock: () => FaceClock = () => ({ heard_ms: 0, playing: false });

  drawn = 0;
  /** For each picture drawn: its time stamp less the clock of the sound. */
  readonly offsets_ms: number[] = [];
  /** For each reply: the frame that its first picture continues, less the frame that the film showed. */
  readonly seams: number[] = [];

  #canvas: HTMLCanvasElement | null = null;
  #film: HTMLVideoElement | null = null;
  #pictures: Pictures | null = null;
  #format: VideoFormat | null = null;
  #loop: IdleLoop | null = null;
  #state: FaceState = 'film';
  #first = false; // the first picture was announced
  #replyLoopFrame: number | null = null;
  #endLoopFrame: number | null = null;
  #filmTime: number | null = null;
  #lastNew = 0;
  #frame = 0;
  #leaving = 0; // counts departures, so that an overtaken one does nothing
  #droppedBefore = 0;
  #times: number[] = []; // of the pictures drawn in the last second

  get dropped(): number {
    return this.#droppedBefore + (this.#pictures?.dropped ?? 0);
  }

  get codec(): Codec | null {
    return this.#format?.codec ?? null;
  }

  get fps(): number {
    const since = performance.now() - 1000;
    this.#times = this.#times.filter((time) => time > since);
    return this.#times.length;
  }

  /** The frame of the idle film that is shown, or lies under the reply. */
  get loop_frame(): number {
    if (this.#state === 'reply' && this.#replyLoopFrame !== null) return this.#replyLoopFrame;
    return this.#filmFrame;
  }

  get #filmFrame(): number {
    if (!this.#loop || !this.#film) return 0;
    const time = this.#filmTime ?? this.#film.currentTime;
    return Math.floor(time * this.#loop.fps + 0.01) % Math.max(1, this.#loop.frames);
  }

  attach(film: HTMLVideoElement, canvas: HTMLCanvasElement): void {
    this.#film = film;
    this.#canvas = canvas;
    this.#hide(0);
    if ('requestVideoFrameCallback' in film) {
      const onFrame = (_now: number, frame: VideoFrameCallbackMetadata) => {
        if (this.#film !== film) return;
        this.#filmTime = frame.mediaTime;
        film.requestVideoFrameCallback(onFrame);
      };
      film.requestVideoFrameCallback(onFrame);
    }
  }

  /** A session: its picture format, and the film for the time between replies. */
  open(format: VideoFormat | null, loop: IdleLoop): void {
    this.reset();
    this.#format = format;
    this.#loop = loop;
    this.#droppedBefore = this.dropped;
    this.#pictures = format ? new Pictures(format) : null;
    if (this.#pictures) {
      this.#pictures.ondecoded = () => this.#onDecoded();
      this.#pictures.onfailed = (codec) => this.onfailed(codec);
    }
    if (this.#canvas && format) this.#canvas.width = this.#canvas.height = format.size_px;
  }

  /** A reply begins. True if there will be pictures to wait for. */
  begin(): boolean {
    this.#pictures?.clear();
    this.#first = false;
    this.#endLoopFrame = null;
    if (this.#state === 'leaving') this.#arrive(++this.#leaving); // the one before is still fading
    return this.#pictures !== null;
  }

  push(packet: MediaPacket): void {
    this.#pictures?.push(packet);
    this.#run();
  }

  finish(loop_frame: number): void {
    this.#endLoopFrame = loop_frame;
    this.#pictures?.finish();
  }

  /** The reply is over: back to the film, where its last picture left off. */
  end(): void {
    this.#pictures?.clear();
    if (this.#state === 'reply') void this.#leave(this.#endLoopFrame ?? this.#replyLoopFrame);
  }

  reset(): void {
    this.#pictures?.clear();
    this.#leaving++;
    this.#hide(0);
    this.#state = 'film';
    void this.#film?.play().catch(() => {});
  }

  #onDecoded(): void {
    if (!this.#first) {
      this.#first = true;
      this.onfirstpicture();
    }
    this.#run();
  }

  #run(): void {
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#onAnimationFrame());
  }

  #onAnimationFrame(): void {
    this.#frame = 0;
    this.advance();
    if (this.#state === 'reply' || this.#pictures?.ready) this.#run();
  }

  /** Draws what is due. A hidden tab has no animation frames: there the clock of the sound calls this. */
  advance(): void {
    const { heard_ms, playing } = this.clock();
    const now = performance.now();
    const picture = playing ? (this.#pictures?.due(heard_ms) ?? null) : null;
    if (picture) {
      this.#draw(picture, heard_ms, now);
    } else if (this.#state === 'reply' && playing && now - this.#lastNew > STARVED_MS) {
      void this.#leave(this.#replyLoopFrame);
    } else if (!playing) {
      this.#lastNew = now; // held on purpose
    }
  }

  #draw(picture: Picture, heard_ms: number, now: number): void {
    const canvas = this.#canvas;
    canvas?.getContext('2d', { alpha: false })?.drawImage(picture.image, 0, 0, canvas.width, canvas.height);
    picture.image.close();
    if (this.#state === 'film' && this.#loop) {
      this.seams.push(shortestWay(this.#filmFrame, picture.loop_frame, this.#loop.frames));
    }
    this.#lastNew = now;
    this.#replyLoopFrame = picture.loop_frame;
    if (document.hidden) return;
    this.drawn++;
    this.#times.push(now);
    this.offsets_ms.push(picture.pts_ms - heard_ms);
    if (this.offsets_ms.length > OFFSETS_KEPT) this.offsets_ms.splice(0, OFFSETS_KEPT / 2);
    if (this.#state !== 'reply') this.#arrive(++this.#leaving);
  }

  /** From the film to the reply. */
  #arrive(departure: number): void {
    this.#state = 'reply';
    this.#fade(1, FADE_IN_MS);
    setTimeout(() => {
      if (this.#state === 'reply' && departure === this.#leaving) this.#film?.pause();
    }, FADE_IN_MS + 50);
  }

  /** From the reply to the film. */
  async #leave(loop_frame: number | null): Promise<void> {
    this.#state = 'leaving';
    const departure = ++this.#leaving;
    if (loop_frame !== null) await this.#seek(loop_frame);
    if (departure !== this.#leaving) return;
    void this.#film?.play().catch(() => {});
    this.#hide(FADE_OUT_MS);
    this.#state = 'film';
  }

  async #seek(loop_frame: number): Promise<void> {
    const film = this.#film;
    if (!film || !this.#loop || film.readyState < HTMLMediaElement.HAVE_METADATA) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        film.removeEventListener('seeked', done);
        clearTimeout(limit);
        resolve();
      };
      const limit = setTimeout(done, SEEK_LIMIT_MS);
      film.addEventListener('seeked', done);
      film.currentTime = ((loop_frame % this.#loop!.frames) + 0.5) / this.#loop!.fps;
    });
  }

  #hide(duration_ms: number): void {
    this.#fade(0, duration_ms);
  }

  #fade(opacity: number, duration_ms: number): void {
    if (!this.#canvas) return;
    this.#canvas.style.transition = duration_ms ? `opacity ${duration_ms}ms linear` : 'none';
    this.#canvas.style.opacity = String(opacity);
  }
}

/** From one frame of a loop to another, forwards or backwards. */
function shortestWay(from: number, to: number, frames: number): number {
  const forwards = (((to - from) % frames) + frames) % frames;
  return forwards > frames / 2 ? forwards - frames : forwards;
}
