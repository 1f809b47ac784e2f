/**
 * The WebSocket protocol: one type per event, told apart by `type`, and one binary header.
 *
 * `services/gateway/protocol.py` holds the same names; `tests/gateway/test_protocol_names.py` compares them.
 * Text frames carry one JSON event, binary frames one media packet.
 */

export const PROTOCOL_VERSION = 1;
export const MAX_TYPED_TEXT_CHARS = 4000;

export type Codec = 'h264' | 'vp8' | 'jpeg';

// --- client to gateway ---------------------------------------------------------------------------

export interface MicFormat {
  sample_rate_hz: number;
}

export interface VideoWish {
  codecs: Codec[];
  size_px: number;
}

export interface SessionStart {
  type: 'session.start';
  protocol: number;
  persona_id: string;
  mic: MicFormat;
  video: VideoWish;
  resume_session_id: string;
}

export interface TextSend {
  type: 'text.send';
  text: string;
}

export interface PlaybackReport {
  type: 'playback.report';
  epoch: number;
  played_ms: number;
  loop_frame: number;
  ended: boolean;
}

export interface SessionEnd {
  type: 'session.end';
}

export type ClientEvent = SessionStart | TextSend | PlaybackReport | SessionEnd;

// --- gateway to client ---------------------------------------------------------------------------

export interface PersonaCard {
  id: string;
  name: string;
}

export interface SpeechFormat {
  sample_rate_hz: number;
}

export interface VideoFormat {
  codec: Codec;
  webcodecs: string;
  size_px: number;
  fps: number;
}

export interface LoopSource {
  url: string;
  mime_type: string;
}

export interface IdleLoop {
  frames: number;
  fps: number;
  sources: LoopSource[];
  poster_url: string;
}

export interface SessionStarted {
  type: 'session.started';
  session_id: string;
  persona: PersonaCard;
  speech: SpeechFormat;
  video: VideoFormat | null;
  idle_loop: IdleLoop;
  resumed: boolean;
}

export interface UserSpeechStarted {
  type: 'user.speech_started';
  at_ms: number;
}

export interface UserSpeechStopped {
  type: 'user.speech_stopped';
  at_ms: number;
}

export interface UserPartial {
  type: 'user.partial';
  text: string;
}

export interface UserFinal {
  type: 'user.final';
  text: string;
}

export interface ReplyStarted {
  type: 'reply.started';
  epoch: number;
  sample_rate_hz: number;
}

export interface CaptionWord {
  text: string;
  start_ms: number;
  end_ms: number;
}

export interface ReplyClause {
  type: 'reply.clause';
  epoch: number;
  text: string;
  start_ms: number;
  end_ms: number;
  words: CaptionWord[];
}

export interface ReplySent {
  type: 'reply.sent';
  epoch: number;
  duration_ms: number;
  loop_frame: number;
}

export interface ReplyPause {
  type: 'reply.pause';
  epoch: number;
}

export interface ReplyResume {
  type: 'reply.resume';
  epoch: number;
}

export interface ReplyStop {
  type: 'reply.stop';
  epoch: number;
}

export interface ReplyEnded {
  type: 'reply.ended';
  epoch: number;
  reason: 'finished' | 'barge_in' | 'failed';
  heard_text: string;
}

export interface TurnTimings {
  type: 'turn.timings';
  epoch: number;
  timings_ms: Record<string, number>;
}

export interface ErrorEvent {
  type: 'error';
  code:
    | 'bad_message'
    | 'unknown_persona'
    | 'unsupported'
    | 'server_full'
    | 'stage_unavailable'
    | 'session_expired'
    | 'internal';
  message: string;
  fatal: boolean;
  retry_after_ms: number | null;
}

export type ServerEvent =
  | SessionStarted
  | UserSpeechStarted
  | UserSpeechStopped
  | UserPartial
  | UserFinal
  | ReplyStarted
  | ReplyClause
  | ReplySent
  | ReplyPause
  | ReplyResume
  | ReplyStop
  | ReplyEnded
  | TurnTimings
  | ErrorEvent;

/** Reads one text frame. Unknown types are left to the caller, so that an older page survives a newer gateway. */
export function parseServerEvent(text: string): ServerEvent | null {
  const event: unknown = JSON.parse(text);
  if (typeof event !== 'object' || event === null || !('type' in event)) return null;
  return event as ServerEvent;
}

// --- media ---------------------------------------------------------------------------------------

export const MediaKind = { MIC: 1, SPEECH: 2, VIDEO: 3 } as const;
export type MediaKind = (typeof MediaKind)[keyof typeof MediaKind];

/** The 16 byte little-endian header: kind u8, flags u8, loop_frame u16, epoch u32, pts_ms f64. */
export const HEADER_BYTES = 16;
const KEYFRAME = 1;

export interface MediaPacket {
  kind: MediaKind;
  epoch: number;
  pts_ms: number;
  payload: Uint8Array<ArrayBuffer>;
  keyframe: boolean;
  loop_frame: number;
}

export function packMedia(packet: MediaPacket): ArrayBuffer {
  const bytes = new ArrayBuffer(HEADER_BYTES + packet.payload.byteLength);
  const header = new DataView(bytes);
  header.setUint8(0, packet.kind);
  header.setUint8(1, packet.keyframe ? KEYFRAME : 0);
  header.setUint16(2, packet.loop_frame, true);
  header.setUint32(4, packet.epoch, true);
  header.setFloat64(8, packet.pts_ms, true);
  new Uint8Array(bytes, HEADER_BYTES).set(packet.payload);
  return bytes;
}

/** Reads one binary frame; null if it is shorter than its header or of an unknown kind. The payload is a view. */
export function unpackMedia(bytes: ArrayBuffer): MediaPacket | null {
  if (bytes.byteLength < HEADER_BYTES) return null;
  const header = new DataView(bytes);
  const kind = header.getUint8(0);
  if (kind !== MediaKind.MIC && kind !== MediaKind.SPEECH && kind !== MediaKind.VIDEO) return null;
  return {
    kind,
    keyframe: (header.getUint8(1) & KEYFRAME) !== 0,
    loop_frame: header.getUint16(2, true),
    epoch: header.getUint32(4, true),
    pts_ms: header.getFloat64(8, true),
    payload: new Uint8Array(bytes, HEADER_BYTES),
  };
}
