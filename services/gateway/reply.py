"""One reply of the agent: three leases opened at once, and what they make sent on to the client."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.gateway import protocol
from services.gateway.clients import StageError, Stages
from services.gateway.history import HeardWord, heard_text
from services.gateway.settings import Settings
from services.gateway.websocket import Outbox
from visavis.clock import Clock
from visavis.persona import Persona
from visavis.streams import Streams, TurnWriter, stream_key
from visavis.v1.common_pb2 import PlaybackPosition, TurnRef, WorkEvent
from visavis.v1.llm_pb2 import ChatMessage, GenerateRequest, ReplyEnd, ReplyMessage
from visavis.v1.talkinghead_pb2 import AnimateRequest, VideoMessage
from visavis.v1.talkinghead_pb2 import VideoFormat as ProtoVideoFormat
from visavis.v1.tts_pb2 import Clause, SpeechMessage, SynthesizeRequest

# After the sound's own length, how long to wait for the client to say that it has played it.
PLAYOUT_SLACK_MS = 5_000
CONTENTS = ("reply", "speech", "video", "playback")


@dataclass(frozen=True)
class CallContext:
    """What all replies of one call share."""

    session_id: str
    persona: Persona
    settings: Settings
    streams: Streams
    stages: Stages
    clock: Clock
    outbox: Outbox
    sample_rate_hz: int
    voice: str
    video: ProtoVideoFormat | None  # None: sound alone

    def key(self, content: str) -> str:
        return stream_key(self.session_id, content)


class Reply:
    """The agent's turn `epoch`. Made for it and thrown away; cancel `run` to cut it off."""

    def __init__(
        self,
        call: CallContext,
        epoch: int,
        prompt: list[ChatMessage] | str,
        first_loop_frame: int,
        origin_ms: float,
    ) -> None:
        """`prompt`: what the model is to answer, or the reply itself where it is known (a greeting).

        `origin_ms`: when the user's turn ended, on the call's clock; times are told from there.
        """
        self.epoch = epoch
        self.timings_ms: dict[str, float] = {}
        self.played_ms = 0.0
        self._call = call
        self._prompt = prompt
        self._first_loop_frame = first_loop_frame
        self._origin_ms = origin_ms
        self._words: list[HeardWord] = []
        self._duration_ms = 0.0
        self._last_loop_frame = first_loop_frame
        self._playback = TurnWriter[PlaybackPosition](call.streams, call.key("playback"), epoch)
        self._played_out = asyncio.Event()

    @property
    def answers_user(self) -> bool:
        """Whether somebody waited for it; nobody waits for a greeting."""
        return not isinstance(self._prompt, str)

    @property
    def heard_text(self) -> str:
        return heard_text(self._words, self.played_ms)

    async def run(self) -> None:
        """Returns when the client has played the reply to its end.

        Raises:
            StageError: mind or voice failed. (If the face fails, the voice goes on.)
            visavis.streams.StreamError: Redis is gone, or a newer epoch has begun.
        """
        call = self._call
        await asyncio.gather(*(call.streams.flush(call.key(c), self.epoch) for c in CONTENTS))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._think(), name="think")
                tasks.create_task(self._speak(), name="speak")
                tasks.create_task(self._forward_speech(), name="forward-speech")
                if call.video is not None:
                    tasks.create_task(self._show(), name="show")
        except BaseExceptionGroup as group:
            raise group.exceptions[
                0
            ] from None  # the first to fail; the others were cancelled for it
        call.outbox.send(
            protocol.ReplySent(
                epoch=self.epoch, duration_ms=self._duration_ms, loop_frame=self._last_loop_frame
            )
        )
        await self._wait_until_played()

    async def played(self, report: protocol.PlaybackReport) -> None:
        """The client says how far its ear is."""
        self.played_ms = max(self.played_ms, report.played_ms)
        if report.played_ms > 0:
            # The report comes after the fact: the first sample left that much earlier.
            self._mark("voice_to_voice", report.played_ms)
        if report.ended:
            self._played_out.set()
        await self._playback.write(PlaybackPosition(played_ms=self.played_ms))

    async def wait_for_last_report(self, timeout_ms: float) -> None:
        """Returns when the client has said how far it played, or after `timeout_ms`."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._played_out.wait()
        except TimeoutError:
            pass  # a client that does not answer: the last report counts

    # --- the three leases ----------------------------------------------------------------------

    async def _think(self) -> None:
        call = self._call
        if isinstance(self._prompt, str):
            output = TurnWriter[ReplyMessage](call.streams, call.key("reply"), self.epoch)
            await output.write(ReplyMessage(text_delta=self._prompt))
            await output.write(ReplyMessage(end=ReplyEnd()))
            return
        request = GenerateRequest(
            turn=self._turn(),
            reply_stream=call.key("reply"),
            messages=self._prompt,
            max_tokens=call.settings.max_reply_tokens,
        )
        await call.stages.generate(request, self._on("first_text"))

    async def _speak(self) -> None:
        call = self._call
        request = SynthesizeRequest(
            turn=self._turn(),
            reply_stream=call.key("reply"),
            speech_stream=call.key("speech"),
            playback_stream=call.key("playback"),
            voice=call.voice,
            lead_ms=call.settings.speech_lead_ms,
        )
        await call.stages.synthesize(request, self._on("first_speech"))

    async def _show(self) -> None:
        """The face. If it fails, the user is told and the voice goes on."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._animate(), name="animate")
                tasks.create_task(self._forward_video(), name="forward-video")
        except* StageError as group:
            self._call.outbox.send(
                protocol.ErrorEvent(code="stage_unavailable", message=str(group.exceptions[0]))
            )

    async def _animate(self) -> None:
        call = self._call
        request = AnimateRequest(
            turn=self._turn(),
            speech_stream=call.key("speech"),
            video_stream=call.key("video"),
            playback_stream=call.key("playback"),
            persona_id=call.persona.id,
            format=call.video,
            first_loop_frame=self._first_loop_frame,
            lead_ms=call.settings.video_lead_ms,
        )
        await call.stages.animate(request, self._on("first_picture"))

    def _turn(self) -> TurnRef:
        return TurnRef(session_id=self._call.session_id, epoch=self.epoch)

    # --- what they make ------------------------------------------------------------------------

    async def _forward_speech(self) -> None:
        call = self._call
        async with call.streams.subscribe(call.key("speech"), self.epoch, SpeechMessage) as speech:
            async for message in speech:
                if message.HasField("clause"):
                    self._take_clause(message.clause)
                elif message.HasField("audio"):
                    self._mark("first_sound_sent")
                    call.outbox.send_media(
                        protocol.MediaPacket(
                            protocol.MediaKind.SPEECH,
                            self.epoch,
                            message.audio.pts_ms,
                            message.audio.pcm,
                        )
                    )
                else:
                    self._duration_ms = message.end.duration_ms
                    return

    def _take_clause(self, clause: Clause) -> None:
        words = [HeardWord(w.text, w.start_ms, w.end_ms) for w in clause.words]
        self._words.extend(words)
        self._call.outbox.send(
            protocol.ReplyClause(
                epoch=self.epoch,
                text=clause.text,
                start_ms=clause.start_ms,
                end_ms=clause.end_ms,
                words=[
                    protocol.CaptionWord(text=w.text, start_ms=w.start_ms, end_ms=w.end_ms)
                    for w in words
                ],
            )
        )

    async def _forward_video(self) -> None:
        call = self._call
        async with call.streams.subscribe(call.key("video"), self.epoch, VideoMessage) as video:
            async for message in video:
                if message.HasField("end"):
                    self._last_loop_frame = message.end.loop_frame
                    return
                frame = message.frame
                call.outbox.send_media(
                    protocol.MediaPacket(
                        protocol.MediaKind.VIDEO,
                        self.epoch,
                        frame.pts_ms,
                        frame.data,
                        frame.keyframe,
                        frame.loop_frame,
                    )
                )

    async def _wait_until_played(self) -> None:
        left_ms = self._duration_ms - self.played_ms
        if self._duration_ms > 0:
            await self.wait_for_last_report(left_ms + PLAYOUT_SLACK_MS)

    # --- times ---------------------------------------------------------------------------------

    def _on(self, point: str) -> Callable[[WorkEvent], None]:
        def note(event: WorkEvent) -> None:
            if event.HasField("first_output"):
                self._mark(point)

        return note

    def _mark(self, point: str, earlier_ms: float = 0) -> None:
        elapsed_ms = self._call.clock.now_ms() - earlier_ms - self._origin_ms
        self.timings_ms.setdefault(point, round(elapsed_ms, 1))
