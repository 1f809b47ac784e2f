"""One call: a TaskGroup around the leases, with turn-taking in the middle."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator

from services.gateway import metrics, protocol
from services.gateway.clients import StageError
from services.gateway.history import History, Turn
from services.gateway.reply import CallContext, Reply
from services.gateway.store import Store
from services.gateway.turns import (
    NEVER,
    Decision,
    Discard,
    Pause,
    Resume,
    Speak,
    Stop,
    TurnTaking,
)
from visavis.audio import MIC_SAMPLE_RATE_HZ, duration_ms
from visavis.streams import StreamError, StreamLostError, TurnWriter
from visavis.v1.asr_pb2 import (
    MicMessage,
    TranscribeRequest,
    TranscriptMessage,
    UserTurnEnded,
)
from visavis.v1.common_pb2 import AudioChunk, TurnRef
from visavis.v1.llm_pb2 import WarmRequest

logger = logging.getLogger(__name__)

LAST_REPORT_TIMEOUT_MS = 400
EAR_ATTEMPTS = 4
EAR_RETRY_MS = 1_000
# How long after it was asked for a reply's first picture is shown: a first guess, then learnt from each reply.
FIRST_REPLY_LEAD_MS = 700
MIC_OFFSETS = 100  # two seconds of packets: delays vary, and clocks drift
LEARNING_RATE = 0.4


class _HungUp(Exception):
    """The client has ended the call: nothing is wrong."""


class CallSession:
    """The conversation with one caller. `run` lasts as long as the call."""

    def __init__(self, call: CallContext, history: History, store: Store, first_epoch: int) -> None:
        self._call = call
        self._clock = call.clock
        self._history = history
        self._store = store
        self._turns = TurnTaking(call.settings.turns, first_epoch)
        self._changed = asyncio.Event()  # the turn state's deadline may have moved
        self._decisions: asyncio.Queue[Speak | Stop | Discard] = (
            asyncio.Queue()
        )  # few, and never lost
        self._reply: Reply | None = None
        self._reply_task: asyncio.Task[None] | None = None
        self._ear_epoch = first_epoch
        self._mic: TurnWriter[MicMessage] | None = None
        self._mic_ms = 0.0  # end of the newest microphone sample
        # Call clock minus microphone clock, of the newest packets: the smallest is the truest.
        self._mic_offsets_ms: deque[float] = deque([0.0], maxlen=MIC_OFFSETS)
        self._turn_ended_ms = 0.0  # microphone time up to which the user's turns are answered
        self._user_end_ms = self._clock.now_ms()  # last voiced sample, on the call's clock
        self._loop_frame = (0, self._clock.now_ms())
        self._reply_lead_ms = float(FIRST_REPLY_LEAD_MS)
        self._partial = ""  # what the user has said of this turn
        self._prompt_grew = asyncio.Event()
        self._prompt_grew.set()

    async def run(
        self, incoming: AsyncIterator[protocol.ClientEvent | protocol.MediaPacket]
    ) -> None:
        """Returns when the client hangs up.

        Raises (alone or in a group):
            protocol.ProtocolError: the client broke the protocol.
            StageError: the ear is gone for good.
            StreamLostError: Redis is gone.
            starlette.websockets.WebSocketDisconnect: the client is gone.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._call.outbox.run(), name="send")
                tasks.create_task(self._conduct(), name="conduct")
                tasks.create_task(self._watch_time(), name="time")
                tasks.create_task(self._listen(), name="listen")
                tasks.create_task(self._keep_warm(), name="warm")
                if self._call.persona.greeting and not self._history.turns:
                    self._greet()
                await self._receive(incoming)
                raise _HungUp  # cancels all the rest
        except* _HungUp:
            pass

    # --- from the client -----------------------------------------------------------------------

    async def _receive(
        self, incoming: AsyncIterator[protocol.ClientEvent | protocol.MediaPacket]
    ) -> None:
        async for item in incoming:
            match item:
                case protocol.MediaPacket():
                    await self._take_mic(item)
                case protocol.TextSend():
                    self._user_end_ms = self._clock.now_ms()
                    self._turn_ended_ms = self._mic_ms
                    self._apply(self._turns.typed(item.text.strip(), self._clock.now_ms()))
                case protocol.PlaybackReport():
                    await self._take_playback(item)
                case protocol.SessionStart():
                    raise protocol.ProtocolError("session.start comes once, first.")

    async def _take_mic(self, packet: protocol.MediaPacket) -> None:
        """Awaiting the write is the back-pressure: a slow Redis slows this client's socket."""
        if self._mic is None:
            return  # the ear is being replaced: this sound is lost
        self._mic_ms = packet.pts_ms + duration_ms(packet.payload, MIC_SAMPLE_RATE_HZ)
        self._mic_offsets_ms.append(self._clock.now_ms() - self._mic_ms)
        audio = AudioChunk(
            pcm=packet.payload, sample_rate_hz=MIC_SAMPLE_RATE_HZ, pts_ms=packet.pts_ms
        )
        await self._write_mic(MicMessage(audio=audio))

    async def _write_mic(self, message: MicMessage) -> None:
        try:
            if self._mic is not None:
                await self._mic.write(message)
        except StreamLostError:
            raise
        except StreamError as error:  # the ear has been replaced meanwhile
            logger.info("microphone sound lost: %s", error)

    async def _take_playback(self, report: protocol.PlaybackReport) -> None:
        self._loop_frame = (report.loop_frame, self._clock.now_ms())
        reply = self._reply
        if reply is None or report.epoch != reply.epoch:
            return
        if report.played_ms > 0:
            self._turns.heard(report.epoch)
        try:
            await reply.played(report)
        except StreamLostError:
            raise
        except StreamError:
            pass  # the epoch has just been cut off: its credit no longer matters

    # --- the ear -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Holds the Transcribe lease; a broken one is replaced, and what was said meanwhile is lost."""
        for attempt in range(EAR_ATTEMPTS):
            try:
                await self._listen_once()
                return
            except* StageError as group:
                error = group.exceptions[0]
                if attempt == EAR_ATTEMPTS - 1:
                    raise error from None
                self._mic = None
                self._call.outbox.send(
                    protocol.ErrorEvent(code="stage_unavailable", message=str(error))
                )
            await self._clock.sleep_ms(EAR_RETRY_MS * (attempt + 1))

    async def _listen_once(self) -> None:
        call = self._call
        self._ear_epoch += 1
        mic, transcript = call.key("mic"), call.key("transcript")
        await asyncio.gather(
            call.streams.flush(mic, self._ear_epoch),
            call.streams.flush(transcript, self._ear_epoch),
        )
        self._mic = TurnWriter(call.streams, mic, self._ear_epoch)
        request = TranscribeRequest(
            turn=TurnRef(session_id=call.session_id, epoch=self._ear_epoch),
            mic_stream=mic,
            transcript_stream=transcript,
            language=call.persona.language,
        )
        try:
            async with (
                call.streams.subscribe(transcript, self._ear_epoch, TranscriptMessage) as heard,
                asyncio.TaskGroup() as tasks,
            ):
                tasks.create_task(self._hear(heard), name="hear")
                tasks.create_task(
                    call.stages.transcribe(request, lambda _: None), name="transcribe"
                )
        finally:
            self._mic = None

    async def _hear(self, messages: AsyncIterator[TranscriptMessage]) -> None:
        async for message in messages:
            self._take_transcript(message, self._clock.now_ms())

    def _take_transcript(self, message: TranscriptMessage, now_ms: float) -> None:
        turns, send = self._turns, self._call.outbox.send
        match message.WhichOneof("content"):
            case "speech_started":
                send(protocol.UserSpeechStarted(at_ms=message.speech_started.at_ms))
                self._apply(turns.speech_started(now_ms))
            case "speech_stopped":
                at_ms = self._turn_ended_ms = message.speech_stopped.at_ms
                self._user_end_ms = at_ms + min(self._mic_offsets_ms)
                send(protocol.UserSpeechStopped(at_ms=at_ms))
                self._apply(turns.speech_stopped(self._user_end_ms))
            case "partial":
                send(protocol.UserPartial(text=message.partial.text))
                self._partial = message.partial.text
                self._prompt_grew.set()
                self._apply(turns.partial(message.partial.text, now_ms))
            case "end_of_turn":
                self._apply(turns.end_of_turn(message.end_of_turn.probability, now_ms))
            case "final":
                self._turn_ended_ms = message.final.end_ms
                send(protocol.UserPartial(text=message.final.text))
                self._apply(turns.final(message.final.text, now_ms))

    # --- decisions -----------------------------------------------------------------------------

    def _apply(self, decisions: list[Decision]) -> None:
        """What must be instant is done here; what takes time is left, in order, to `_conduct`."""
        self._changed.set()
        for decision in decisions:
            match decision:
                case Pause(epoch):
                    self._call.outbox.send(protocol.ReplyPause(epoch=epoch))
                case Resume(epoch):
                    metrics.pauses.labels("resumed").inc()
                    self._call.outbox.send(protocol.ReplyResume(epoch=epoch))
                case Stop(epoch):
                    metrics.pauses.labels("stopped").inc()
                    self._call.outbox.send(protocol.ReplyStop(epoch=epoch))
                    self._decisions.put_nowait(decision)
                case _:
                    self._decisions.put_nowait(decision)

    async def _watch_time(self) -> None:
        """Calls `tick` when the turn state's deadline has come."""
        while True:
            self._changed.clear()
            wait_ms = self._turns.deadline_ms - self._clock.now_ms()
            if wait_ms <= 0:
                self._apply(self._turns.tick(self._clock.now_ms()))
                await self._clock.sleep_ms(10)  # a deadline that decides nothing must not spin
                continue
            if wait_ms == NEVER:
                await self._changed.wait()
                continue
            waits = [
                asyncio.ensure_future(self._changed.wait()),
                asyncio.ensure_future(self._clock.sleep_ms(wait_ms)),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for waiting in waits:
                    waiting.cancel()

    async def _conduct(self) -> None:
        async with asyncio.TaskGroup() as replies:
            while True:
                match await self._decisions.get():
                    case Speak(epoch, text):
                        await self._open_reply(replies, epoch, text)
                    case Stop() as stop:
                        await self._cut_off(stop)
                    case Discard():
                        await self._end_user_turn()

    async def _open_reply(self, replies: asyncio.TaskGroup, epoch: int, text: str) -> None:
        self._partial = ""
        self._prompt_grew.clear()  # the reply reads the prompt itself
        prompt = self._history.messages(self._call.persona, text)
        reply = Reply(self._call, epoch, prompt, self._next_loop_frame(), self._user_end_ms)
        reply.timings_ms["speak"] = round(self._clock.now_ms() - self._user_end_ms, 1)
        self._start(replies, reply)
        self._call.outbox.send(protocol.UserFinal(text=text))
        await self._end_user_turn()
        await self._remember(Turn("user", text))

    def _greet(self) -> None:
        epoch = self._turns.begin_reply()
        greeting = self._call.persona.greeting
        reply = Reply(self._call, epoch, greeting, self._next_loop_frame(), self._clock.now_ms())
        self._start(self._tasks, reply)

    def _start(self, tasks: asyncio.TaskGroup, reply: Reply) -> None:
        self._reply = reply
        rate_hz = self._call.sample_rate_hz
        self._call.outbox.send(protocol.ReplyStarted(epoch=reply.epoch, sample_rate_hz=rate_hz))
        self._reply_task = tasks.create_task(self._run_reply(reply), name=f"reply-{reply.epoch}")

    async def _run_reply(self, reply: Reply) -> None:
        """Cancelled (cut off, hung up): `_cut_off` or nobody tells the rest."""
        reason: protocol.EndReason = "finished"
        try:
            await reply.run()
        except StageError as error:
            reason = "failed"
            self._call.outbox.send(
                protocol.ErrorEvent(code="stage_unavailable", message=str(error))
            )
            self._call.outbox.send(protocol.ReplyStop(epoch=reply.epoch))
            await reply.wait_for_last_report(LAST_REPORT_TIMEOUT_MS)
        await self._close_reply(reply, reason)
        self._apply(self._turns.reply_over(reply.epoch, self._clock.now_ms()))

    async def _cut_off(self, stop: Stop) -> None:
        """The client has been told already; here the workers are, and the history is cut."""
        reply, task = self._reply, self._reply_task
        if reply is None or task is None or reply.epoch != stop.epoch:
            return
        task.cancel()
        call = self._call
        contents = ("reply", "speech", "video")
        await asyncio.gather(*(call.streams.flush(call.key(c), stop.next_epoch) for c in contents))
        await reply.wait_for_last_report(LAST_REPORT_TIMEOUT_MS)
        await self._close_reply(reply, "barge_in")

    async def _close_reply(self, reply: Reply, reason: protocol.EndReason) -> None:
        if self._reply is not reply:
            return  # it ended and was cut off at the same moment: once is enough
        self._reply = None
        metrics.replies.labels(reason).inc()
        if reply.answers_user:
            metrics.observe_turn(reply.timings_ms)
        if "voice_to_voice" in reply.timings_ms:
            lead_ms = reply.timings_ms["voice_to_voice"] - reply.timings_ms.get("speak", 0.0)
            self._reply_lead_ms += LEARNING_RATE * (lead_ms - self._reply_lead_ms)
        send = self._call.outbox.send
        send(protocol.TurnTimings(epoch=reply.epoch, timings_ms=reply.timings_ms))
        send(protocol.ReplyEnded(epoch=reply.epoch, reason=reason, heard_text=reply.heard_text))
        await self._remember(Turn("agent", reply.heard_text))

    async def _remember(self, turn: Turn) -> None:
        self._history.add(turn)
        if turn.text.strip():
            await self._store.add_turn(self._call.session_id, turn)

    async def _end_user_turn(self) -> None:
        """Tells the ear that what it has heard so far is answered, or was nothing."""
        ended = UserTurnEnded(until_ms=self._turn_ended_ms)
        await self._write_mic(MicMessage(user_turn_ended=ended))

    # --- small things --------------------------------------------------------------------------

    async def _keep_warm(self) -> None:
        """Lets the model read the prompt as it grows: the persona first, then the user's words while he speaks.

        A Generate of the same session stops a Warm by itself, and goes on from what it has read.
        """
        while True:
            await self._prompt_grew.wait()
            self._prompt_grew.clear()
            messages = self._history.messages(self._call.persona, self._partial)
            request = WarmRequest(session_id=self._call.session_id, messages=messages)
            await self._call.stages.warm(request)

    def _next_loop_frame(self) -> int:
        """The frame of the idle loop that the client will show when the reply begins."""
        frame, at_ms = self._loop_frame
        face = self._call.persona.face
        ahead = (self._clock.now_ms() - at_ms + self._reply_lead_ms) / 1000 * face.fps
        return int(frame + ahead) % face.idle_frames
