/**
 * The state of one call, without a framework: events, media and clicks in, a snapshot to show out.
 *
 * Sound, picture, microphone and socket come from outside (`CallParts`), so that a test brings its own.
 */

import { ReplyCaptions, type ShownWord } from './captions';
import { Connection, type Socket } from './connection';
import type { FaceClock } from './face';
import { MicrophoneError, type MicrophoneTrouble } from './microphone';
import type { PlayoutState } from './playout';
import {
  errorText,
  GIVEN_UP,
  HISTORY_LOST,
  laterProblem,
  lostProblem,
  microphoneProblem,
  type Problem,
} from './problems';
import {
  MediaKind,
  PROTOCOL_VERSION,
  type Codec,
  type ErrorEvent,
  type IdleLoop,
  type MediaPacket,
  type ReplyEnded,
  type ServerEvent,
  type SessionStarted,
  type VideoFormat,
} from './protocol';

const REPORT_MS = 200;
const IDLE_REPORT_MS = 1000;
const DEFAULT_RETRY_MS = 5000;
const PICTURE_SIZE_PX = 512;

export type CallState = 'lobby' | 'connecting' | 'live' | 'reconnecting' | 'ended';
export type MicState = 'off' | 'asking' | 'on' | 'muted' | MicrophoneTrouble;
/** What the agent does, to be shown in a word. */
export type Activity = 'listening' | 'hearing' | 'thinking' | 'speaking' | 'held';

export interface Line {
  who: 'user' | 'agent';
  text: string;
  /** The agent was cut off here. */
  cut?: boolean;
}

export interface CallView {
  state: CallState;
  activity: Activity;
  mic: MicState;
  persona: string;
  loop: IdleLoop | null;
  problem: Problem | null;
  soundBlocked: boolean;
  partial: string;
  words: ShownWord[];
  lines: Line[];
  /** Each clause as its sound begins, for screen readers. */
  spoken: string;
  timings: Record<string, number>;
  started_at: number;
}

export interface SpeakerPart {
  onprogress: () => void;
  onended: (epoch: number) => void;
  readonly sampleRate_hz: number;
  readonly blocked: boolean;
  readonly state: PlayoutState;
  readonly underruns: number;
  readonly heard_ms: number;
  unlock(): Promise<void>;
  begin(epoch: number): void;
  push(packet: MediaPacket): void;
  finish(epoch: number, duration_ms: number): void;
  release(): void;
  pause(): void;
  resume(): void;
  stop(): number;
  close(): Promise<void>;
}

export interface FacePart {
  onfirstpicture: () => void;
  onfailed: (codec: Codec) => void;
  clock: () => FaceClock;
  readonly loop_frame: number;
  open(format: VideoFormat | null, loop: IdleLoop): void;
  begin(): boolean;
  push(packet: MediaPacket): void;
  finish(loop_frame: number): void;
  end(): void;
  advance(): void;
  reset(): void;
}

export interface MicrophonePart {
  onblock: (pts_ms: number, pcm: ArrayBuffer) => void;
  onlost: () => void;
  muted: boolean;
  readonly level: number;
  close(): Promise<void>;
}

export interface CallParts {
  socket(): Socket;
  speaker(sampleRate_hz: number): Promise<SpeakerPart>;
  microphone(): Promise<MicrophonePart>;
  face: FacePart;
  codecs(): Promise<Codec[]>;
  now(): number;
}

/** A reply of which sound may still come or play. */
interface Reply {
  captions: ReplyCaptions;
  /** It was played to its end, or stopped: nothing of it may be heard any more. */
  over: boolean;
}

const BEFORE: CallView = {
  state: 'lobby',
  activity: 'listening',
  mic: 'off',
  persona: '',
  loop: null,
  problem: null,
  soundBlocked: false,
  partial: '',
  words: [],
  lines: [],
  spoken: '',
  timings: {},
  started_at: 0,
};

export class Call {
  onchange: (view: CallView) => void = () => {};

  readonly #parts: CallParts;
  #view: CallView = BEFORE;
  #connection: Connection | null = null;
  #speaker: SpeakerPart | null = null;
  #microphone: MicrophonePart | null = null;
  #personaId = '';
  #sessionId = '';
  #codecs: Codec[] = ['jpeg'];
  #epoch = 0;
  #reply: Reply | null = null;
  #reported_at = 0;
  #lineEpoch = -1;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(parts: CallParts) {
    this.#parts = parts;
    parts.face.clock = () => ({
      heard_ms: this.#speaker?.heard_ms ?? 0,
      playing: this.#speaker?.state === 'playing' && !this.#speaker.blocked,
    });
    parts.face.onfirstpicture = () => this.#speaker?.release();
    parts.face.onfailed = (codec) => this.#doWithout(codec);
  }

  get view(): CallView {
    return this.#view;
  }

  get epoch(): number {
    return this.#epoch;
  }

  get speaker(): SpeakerPart | null {
    return this.#speaker;
  }

  get micLevel(): number {
    return this.#view.mic === 'on' ? (this.#microphone?.level ?? 0) : 0;
  }

  // --- what the user does --------------------------------------------------------------------------

  async start(personaId: string, withMicrophone: boolean): Promise<void> {
    if (this.#view.state !== 'lobby' && this.#view.state !== 'ended') return;
    this.#personaId = personaId;
    this.#sessionId = '';
    this.#epoch = 0;
    this.#show({ ...BEFORE, state: 'connecting' });
    if (withMicrophone) await this.openMicrophone();
    this.#codecs = await this.#parts.codecs();
    if (this.view.state !== 'connecting') return; // hung up meanwhile
    this.#connection = new Connection(
      this.#parts.socket,
      {
        onopen: () => this.#sendStart(),
        onevent: (event) => this.#onEvent(event),
        onmedia: (packet) => this.#onMedia(packet),
        onlost: (restarting, wait_ms) => this.#onLost(restarting, wait_ms),
        ongivenup: () => this.#end(GIVEN_UP),
      },
      this.#parts.now,
    );
    this.#connection.connect();
    this.#timer = setInterval(() => this.#reportIdle(), IDLE_REPORT_MS);
  }

  hangUp(): void {
    if (this.#view.state === 'lobby' || this.#view.state === 'ended') return;
    this.#connection?.send({ type: 'session.end' });
    this.#end(null);
  }

  leave(): void {
    this.hangUp();
    this.#show(BEFORE);
  }

  async openMicrophone(): Promise<void> {
    if (this.#microphone) return;
    this.#show({ mic: 'asking', problem: this.#unless('microphone') });
    try {
      const microphone = await this.#parts.microphone();
      if (this.#view.state === 'ended' || this.#view.state === 'lobby') return void microphone.close();
      this.#microphone = microphone;
      microphone.onblock = (pts_ms, pcm) => this.#sendMic(pts_ms, pcm);
      microphone.onlost = () => this.#loseMicrophone();
      this.#show({ mic: 'on' });
    } catch (error) {
      const trouble = error instanceof MicrophoneError ? error.trouble : 'missing';
      this.#show({ mic: trouble, problem: microphoneProblem(trouble) });
    }
  }

  toggleMute(): void {
    if (!this.#microphone) return void this.openMicrophone();
    const muted = this.#view.mic === 'on';
    this.#microphone.muted = muted;
    this.#show({ mic: muted ? 'muted' : 'on' });
  }

  sendText(text: string): boolean {
    const trimmed = text.trim();
    if (!trimmed || this.#view.state !== 'live') return false;
    this.#connection?.send({ type: 'text.send', text: trimmed });
    this.#show({ partial: trimmed });
    return true;
  }

  async unlockSound(): Promise<void> {
    await this.#speaker?.unlock();
  }

  dismissProblem(): void {
    this.#show({ problem: null });
  }

  retryNow(): void {
    this.#connection?.retryNow();
  }

  networkGone(): void {
    if (this.#view.state === 'live') this.#connection?.lose();
  }

  // --- the connection ------------------------------------------------------------------------------

  #sendStart(): void {
    this.#connection?.send({
      type: 'session.start',
      protocol: PROTOCOL_VERSION,
      persona_id: this.#personaId,
      mic: { sample_rate_hz: 16_000 },
      video: { codecs: this.#codecs, size_px: PICTURE_SIZE_PX },
      resume_session_id: this.#sessionId,
    });
  }

  #onLost(restarting: boolean, wait_ms: number): void {
    this.#silence();
    const everStarted = this.#view.started_at > 0;
    const retry_at = this.#parts.now() + wait_ms;
    // A server that said when to come again closes the socket too; its own words stay.
    const told = this.#view.problem?.kind === 'server' && (this.#view.problem.retry_at ?? 0) > this.#parts.now();
    this.#show({
      state: everStarted ? 'reconnecting' : 'connecting',
      activity: 'listening',
      partial: '',
      problem: told ? this.#view.problem : lostProblem(restarting, everStarted, retry_at),
    });
  }

  async #onStarted(event: SessionStarted): Promise<void> {
    const expected = this.#sessionId;
    if (!event.resumed) {
      this.#epoch = 0;
      this.#lineEpoch = -1;
    }
    this.#sessionId = event.session_id;
    this.#connection?.settled();
    this.#parts.face.open(event.video, event.idle_loop);
    const problem = expected && !event.resumed ? HISTORY_LOST : this.#unless('connection', 'server');
    this.#show({
      state: 'live',
      persona: event.persona.name,
      loop: event.idle_loop,
      started_at: this.#view.started_at || this.#parts.now(),
      problem,
    });
    await this.#openSpeaker(event.speech.sample_rate_hz);
  }

  async #openSpeaker(sampleRate_hz: number): Promise<void> {
    if (this.#speaker?.sampleRate_hz === sampleRate_hz) return;
    void this.#speaker?.close();
    this.#speaker = null;
    const speaker = await this.#parts.speaker(sampleRate_hz);
    if (this.#view.state === 'ended' || this.#view.state === 'lobby') return void speaker.close();
    this.#speaker = speaker;
    speaker.onprogress = () => this.#onProgress();
    speaker.onended = (epoch) => this.#onPlayed(epoch);
    this.#onProgress();
    for (const event of this.#early.splice(0)) event();
  }

  // What came while the speaker was being opened: the first reply may be that quick.
  readonly #early: (() => void)[] = [];

  #onEvent(event: ServerEvent): void {
    if (event.type === 'session.started') return void this.#onStarted(event);
    if (event.type === 'error') return this.#onError(event);
    if (!this.#speaker) return void this.#early.push(() => this.#onEvent(event));
    switch (event.type) {
      case 'user.speech_started':
        return this.#show({ activity: this.#replying ? this.#view.activity : 'hearing' });
      case 'user.speech_stopped':
        return this.#show({ activity: this.#replying ? this.#view.activity : 'listening' });
      case 'user.partial':
        return this.#show({ partial: event.text });
      case 'user.final':
        return this.#onFinal(event.text);
      case 'turn.timings':
        return this.#show({ timings: event.timings_ms });
      case 'reply.ended':
        return this.#onReplyEnded(event);
      default:
        return this.#onReply(event);
    }
  }

  #onError(error: ErrorEvent): void {
    if (error.code === 'server_full' || (error.fatal && error.retry_after_ms !== null)) {
      const wait_ms = error.retry_after_ms ?? DEFAULT_RETRY_MS;
      this.#show({ problem: laterProblem(error, this.#parts.now() + wait_ms) });
      return this.#connection?.lose(wait_ms);
    }
    if (error.code === 'session_expired' && this.#sessionId && this.#view.state === 'reconnecting') {
      this.#sessionId = ''; // what comes next is a new session
      this.#show({ problem: HISTORY_LOST });
      if (error.fatal) this.#connection?.connect();
      return;
    }
    if (error.fatal) return this.#end(errorText(error));
    this.#show({ problem: { kind: 'notice', text: errorText(error) } });
    if (this.#view.activity === 'thinking') this.#show({ activity: 'listening' });
  }

  #onFinal(text: string): void {
    this.#show({
      partial: '',
      words: [],
      activity: 'thinking',
      problem: this.#unless('notice'),
      lines: text ? [...this.#view.lines, { who: 'user', text }] : this.#view.lines,
    });
  }

  // --- a reply -------------------------------------------------------------------------------------

  get #replying(): boolean {
    return this.#reply !== null && !this.#reply.over;
  }

  #onReply(event: Extract<ServerEvent, { type: `reply.${string}` }>): void {
    if (event.type === 'reply.started') return this.#begin(event.epoch);
    if (event.epoch !== this.#epoch || !this.#reply || this.#reply.over) return; // of an older epoch: void
    switch (event.type) {
      case 'reply.clause':
        this.#reply.captions.add(event);
        return;
      case 'reply.sent':
        this.#speaker?.finish(event.epoch, event.duration_ms);
        return this.#parts.face.finish(event.loop_frame);
      case 'reply.pause':
        this.#speaker?.pause();
        this.#show({ activity: 'held' });
        return this.#report(false);
      case 'reply.resume':
        this.#speaker?.resume();
        return this.#show({ activity: 'speaking' });
      case 'reply.stop':
        return this.#stop();
    }
  }

  #begin(epoch: number): void {
    if (epoch < this.#epoch) return;
    this.#epoch = epoch;
    this.#reply = { captions: new ReplyCaptions(epoch), over: false };
    this.#speaker?.begin(epoch);
    if (!this.#parts.face.begin()) this.#speaker?.release();
    this.#show({ words: [], spoken: '' });
  }

  #onMedia(packet: MediaPacket): void {
    if (!this.#speaker) return void this.#early.push(() => this.#onMedia(packet));
    if (packet.epoch !== this.#epoch || !this.#replying) return;
    if (packet.kind === MediaKind.SPEECH) this.#speaker.push(packet);
    else if (packet.kind === MediaKind.VIDEO) this.#parts.face.push(packet);
  }

  #onProgress(): void {
    const speaker = this.#speaker;
    if (!speaker) return;
    if (speaker.blocked !== this.#view.soundBlocked) this.#show({ soundBlocked: speaker.blocked });
    if (!this.#replying) return;
    if (speaker.state === 'playing' && this.#view.activity !== 'speaking') this.#show({ activity: 'speaking' });
    this.reveal();
    this.#parts.face.advance();
    if (speaker.state === 'playing' && this.#parts.now() - this.#reported_at >= REPORT_MS) this.#report(false);
  }

  /** Shows the words that have been heard by now. Cheap: changes nothing between two words. */
  reveal(): void {
    const reply = this.#reply;
    if (!reply || reply.over || this.#view.activity !== 'speaking') return;
    const heard_ms = this.#speaker?.heard_ms ?? 0;
    const words = reply.captions.at(heard_ms);
    const spoken = reply.captions.textOf(reply.captions.clauseAt(heard_ms));
    if (sameWords(words, this.#view.words)) return;
    this.#show({ words, spoken });
  }

  /** The last sample has left the loudspeaker. */
  #onPlayed(epoch: number): void {
    if (epoch !== this.#epoch || !this.#reply || this.#reply.over) return;
    this.#finishReply(this.#speaker?.heard_ms ?? 0);
  }

  #stop(): void {
    this.#finishReply(this.#speaker?.stop() ?? 0);
  }

  #finishReply(heard_ms: number): void {
    const reply = this.#reply!;
    reply.over = true;
    this.#report(true, heard_ms);
    this.#parts.face.end();
    const words = reply.captions.at(heard_ms).filter((word) => word.state !== 'coming');
    this.#show({
      activity: 'listening',
      words: words.map((word) => ({ ...word, state: 'said' })),
    });
  }

  #onReplyEnded(event: ReplyEnded): void {
    if (event.epoch === this.#epoch && this.#replying && event.reason !== 'finished') this.#stop();
    this.#addReplyLine(event.epoch, event.heard_text.trim(), event.reason !== 'finished');
    if (this.#view.activity === 'thinking' && event.epoch === this.#epoch) this.#show({ activity: 'listening' });
  }

  /** Once for each reply: one that a lost connection cut off may be told again after it. */
  #addReplyLine(epoch: number, text: string, cut: boolean): void {
    if (!text || this.#lineEpoch === epoch) return;
    this.#lineEpoch = epoch;
    this.#show({ lines: [...this.#view.lines, { who: 'agent', text, cut }] });
  }

  // --- reports and the rest ------------------------------------------------------------------------

  #report(ended: boolean, played_ms = this.#speaker?.heard_ms ?? 0): void {
    this.#reported_at = this.#parts.now();
    this.#connection?.send({
      type: 'playback.report',
      epoch: this.#epoch,
      played_ms,
      loop_frame: this.#parts.face.loop_frame,
      ended,
    });
  }

  /** Between replies the gateway still needs to know where the film is. */
  #reportIdle(): void {
    if (this.#view.state !== 'live') return;
    const quiet = this.#parts.now() - this.#reported_at >= IDLE_REPORT_MS - REPORT_MS;
    if (quiet) this.#report(this.#reply?.over ?? false);
  }

  #sendMic(pts_ms: number, pcm: ArrayBuffer): void {
    if (this.#view.state !== 'live') return;
    const payload = new Uint8Array(pcm);
    this.#connection?.sendMedia({ kind: MediaKind.MIC, epoch: 0, pts_ms, payload, keyframe: false, loop_frame: 0 });
  }

  #loseMicrophone(): void {
    void this.#microphone?.close();
    this.#microphone = null;
    this.#show({ mic: 'lost', problem: microphoneProblem('lost') });
  }

  /** The browser said that it can decode this, and cannot: the same call again, without it. */
  #doWithout(codec: Codec): void {
    this.#codecs = this.#codecs.filter((other) => other !== codec);
    if (this.#view.state === 'live') this.#connection?.lose(0);
  }

  #silence(): void {
    this.#early.length = 0;
    const heard_ms = this.#speaker?.stop() ?? 0;
    this.#parts.face.end();
    if (!this.#reply || this.#reply.over) return;
    this.#reply.over = true;
    this.#show({ words: [] });
    this.#addReplyLine(this.#epoch, this.#reply.captions.heard(heard_ms), true);
  }

  #end(why: string | null): void {
    clearInterval(this.#timer);
    this.#silence();
    this.#connection?.close();
    void this.#speaker?.close();
    void this.#microphone?.close();
    this.#connection = this.#speaker = this.#microphone = this.#reply = null;
    this.#show({
      state: 'ended',
      mic: 'off',
      partial: '',
      words: [],
      soundBlocked: false,
      problem: why ? { kind: 'server', text: why } : null,
    });
  }

  #unless(...kinds: Problem['kind'][]): Problem | null {
    const { problem } = this.#view;
    return problem && kinds.includes(problem.kind) ? null : problem;
  }

  #show(change: Partial<CallView>): void {
    this.#view = { ...this.#view, ...change };
    this.onchange(this.#view);
  }
}

function sameWords(a: ShownWord[], b: ShownWord[]): boolean {
  return a.length === b.length && a.every((word, i) => word.text === b[i]!.text && word.state === b[i]!.state);
}
