"""The WebSocket protocol: one class per event, told apart by `type`, and one binary header.

`docs/protocol.md` shows the exchanges; `web/src/protocol.ts` holds the same names (a test compares them).
Text frames carry one JSON event, binary frames one media packet.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

PROTOCOL_VERSION = 1
MAX_TEXT_FRAME_BYTES = 16 * 1024
MAX_MIC_PACKET_BYTES = 16 * 1024  # half a second of 16 kHz PCM16: a client sends 20 ms
MAX_TYPED_TEXT_CHARS = 4_000


class ProtocolError(ValueError):
    """The client sent something that this protocol does not allow; the message says what."""


class Event(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# --- client to gateway ---------------------------------------------------------------------------


class MicFormat(Event):
    sample_rate_hz: int = 16_000


class VideoWish(Event):
    """What the client can decode, best first. An empty list asks for sound alone."""

    codecs: list[Literal["h264", "vp8", "jpeg"]] = Field(default=["jpeg"], max_length=8)
    size_px: int = Field(default=512, ge=64, le=1024)


class SessionStart(Event):
    """The first event of every connection."""

    type: Literal["session.start"] = "session.start"
    protocol: int = PROTOCOL_VERSION
    persona_id: str = Field(default="", max_length=64)  # empty: the server's default persona
    mic: MicFormat = MicFormat()
    video: VideoWish = VideoWish()
    # Takes up an earlier call where it broke off: same history, same transcript.
    resume_session_id: str = Field(default="", max_length=64)


class TextSend(Event):
    """Typed text: an input equal to speech."""

    type: Literal["text.send"] = "text.send"
    text: str = Field(min_length=1, max_length=MAX_TYPED_TEXT_CHARS)


class PlaybackReport(Event):
    """Where the user's ear is. Sent every 200 ms while a reply plays, at its end, and when it is stopped or paused."""

    type: Literal["playback.report"] = "playback.report"
    epoch: int = Field(ge=0)
    played_ms: float = Field(ge=0, le=86_400_000)
    # The picture of the idle loop that is shown, or lies under the reply.
    loop_frame: int = Field(default=0, ge=0, le=1_000_000)
    ended: bool = False  # the reply has been played to its end, or was stopped


class SessionEnd(Event):
    """Hang up."""

    type: Literal["session.end"] = "session.end"


ClientEvent = Annotated[
    SessionStart | TextSend | PlaybackReport | SessionEnd, Field(discriminator="type")
]
_client_event: TypeAdapter[ClientEvent] = TypeAdapter(ClientEvent)


def parse_client_event(text: str) -> ClientEvent:
    """Reads one text frame.

    Raises:
        ProtocolError: too long, not JSON, an unknown `type`, or a field that is missing or out of range.
    """
    if len(text) > MAX_TEXT_FRAME_BYTES:
        raise ProtocolError(
            f"An event may have {MAX_TEXT_FRAME_BYTES} characters; this one has {len(text)}."
        )
    try:
        return _client_event.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"Event not understood: {where or 'JSON'}: {first['msg']}.") from None


# --- gateway to client ---------------------------------------------------------------------------


class PersonaCard(Event):
    id: str
    name: str


class SpeechFormat(Event):
    sample_rate_hz: int


class VideoFormat(Event):
    codec: Literal["h264", "vp8", "jpeg"]
    webcodecs: str  # for VideoDecoder.configure; empty for jpeg
    size_px: int
    fps: float


class LoopSource(Event):
    url: str
    mime_type: str


class IdleLoop(Event):
    """The face between replies: a film that the client plays by itself, over and over."""

    frames: int
    fps: float
    sources: list[LoopSource]
    poster_url: str


class SessionStarted(Event):
    type: Literal["session.started"] = "session.started"
    session_id: str
    persona: PersonaCard
    speech: SpeechFormat
    video: VideoFormat | None  # None: the client asked for sound alone
    idle_loop: IdleLoop
    resumed: bool = False


class UserSpeechStarted(Event):
    type: Literal["user.speech_started"] = "user.speech_started"
    at_ms: float  # on the clock of the microphone's samples


class UserSpeechStopped(Event):
    type: Literal["user.speech_stopped"] = "user.speech_stopped"
    at_ms: float


class UserPartial(Event):
    """The user's words so far; each replaces the one before."""

    type: Literal["user.partial"] = "user.partial"
    text: str


class UserFinal(Event):
    """The user's turn is over and this is what was understood (or typed)."""

    type: Literal["user.final"] = "user.final"
    text: str


class ReplyStarted(Event):
    """A reply begins; its media packets carry this epoch. Anything of an older epoch is void."""

    type: Literal["reply.started"] = "reply.started"
    epoch: int
    sample_rate_hz: int


class CaptionWord(Event):
    text: str
    start_ms: float
    end_ms: float


class ReplyClause(Event):
    """Words of the reply, timed on its sound. Comes before that sound."""

    type: Literal["reply.clause"] = "reply.clause"
    epoch: int
    text: str
    start_ms: float
    end_ms: float
    words: list[CaptionWord]


class ReplySent(Event):
    """All of the reply is on its way: after `duration_ms` of sound the idle loop goes on at `loop_frame`."""

    type: Literal["reply.sent"] = "reply.sent"
    epoch: int
    duration_ms: float
    loop_frame: int


class ReplyPause(Event):
    """Hold sound and face where they are, keep what is buffered: the user may be cutting in."""

    type: Literal["reply.pause"] = "reply.pause"
    epoch: int


class ReplyResume(Event):
    """It was nothing: go on from the very sample."""

    type: Literal["reply.resume"] = "reply.resume"
    epoch: int


class ReplyStop(Event):
    """Be silent at once, drop what is buffered, send a last `playback.report` with `ended`."""

    type: Literal["reply.stop"] = "reply.stop"
    epoch: int


EndReason = Literal["finished", "barge_in", "failed"]


class ReplyEnded(Event):
    """The reply is over, and `heard_text` is what the user heard of it. That alone enters the history."""

    type: Literal["reply.ended"] = "reply.ended"
    epoch: int
    reason: EndReason
    heard_text: str


class TurnTimings(Event):
    """How long each part of a turn took, from the end of the user's turn, as the gateway saw it."""

    type: Literal["turn.timings"] = "turn.timings"
    epoch: int
    # Time from the user's last voiced sample to each point. Absent: it did not come to pass.
    timings_ms: dict[str, float]


class ErrorEvent(Event):
    """Something went wrong, in words for the user. If `fatal`, the connection closes next."""

    type: Literal["error"] = "error"
    code: Literal[
        "bad_message",
        "unknown_persona",
        "unsupported",
        "server_full",
        "stage_unavailable",
        "session_expired",
        "internal",
    ]
    message: str
    fatal: bool = False
    retry_after_ms: int | None = None


ServerEvent = Annotated[
    SessionStarted
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
    | ErrorEvent,
    Field(discriminator="type"),
]
_server_event: TypeAdapter[ServerEvent] = TypeAdapter(ServerEvent)


def parse_server_event(text: str) -> ServerEvent:
    """Reads one text frame of the gateway; for clients written in Python."""
    return _server_event.validate_json(text)


# --- media ---------------------------------------------------------------------------------------


class MediaKind(IntEnum):
    MIC = 1  # client → gateway: PCM16 mono 16 kHz
    SPEECH = 2  # gateway → client: PCM16 mono at the voice's rate
    VIDEO = 3  # gateway → client: one encoded picture


@dataclass(frozen=True, slots=True)
class MediaPacket:
    """One binary frame: a 16 byte little-endian header, then the payload.

    | offset | type | field |
    |---|---|---|
    | 0 | u8 | kind |
    | 1 | u8 | flags; bit 0: keyframe |
    | 2 | u16 | loop_frame (video) |
    | 4 | u32 | epoch; 0 for the microphone |
    | 8 | f64 | pts_ms: of the first sample, or of the picture |
    """

    HEADER: ClassVar[struct.Struct] = struct.Struct("<BBHId")

    kind: MediaKind
    epoch: int
    pts_ms: float
    payload: bytes
    keyframe: bool = False
    loop_frame: int = 0

    def pack(self) -> bytes:
        return (
            self.HEADER.pack(
                self.kind, int(self.keyframe), self.loop_frame, self.epoch, self.pts_ms
            )
            + self.payload
        )

    @classmethod
    def unpack(cls, data: bytes) -> "MediaPacket":
        """Reads one binary frame.

        Raises:
            ProtocolError: shorter than its header, or of an unknown kind.
        """
        if len(data) < cls.HEADER.size:
            raise ProtocolError(
                f"A media packet has a header of {cls.HEADER.size} bytes; got {len(data)}."
            )
        kind, flags, loop_frame, epoch, pts_ms = cls.HEADER.unpack_from(data)
        try:
            kind = MediaKind(kind)
        except ValueError:
            raise ProtocolError(f"Unknown media kind {kind}.") from None
        return cls(kind, epoch, pts_ms, data[cls.HEADER.size :], bool(flags & 1), loop_frame)


def check_mic_packet(packet: MediaPacket) -> None:
    """Raises ProtocolError unless this is a block of microphone sound of a sane size."""
    if packet.kind is not MediaKind.MIC:
        raise ProtocolError("A client sends media of kind 1 (mic) only.")
    if not packet.payload or len(packet.payload) % 2:
        raise ProtocolError("Microphone sound is 16 bit PCM: an even number of bytes, not none.")
    if len(packet.payload) > MAX_MIC_PACKET_BYTES:
        raise ProtocolError(
            f"A microphone packet may have {MAX_MIC_PACKET_BYTES} bytes (send 20 ms, 640 bytes);"
            f" this one has {len(packet.payload)}."
        )
