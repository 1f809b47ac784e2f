"""A caller in Python: speaks the WebSocket protocol, with a loudspeaker and a screen that are only imagined.

Used by `visavis call`, the tests and the benchmarks. It plays what it gets in real time, as a browser would:
the sound's clock is the master, a late picture is dropped, sound never is.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import websockets
from websockets.asyncio.client import ClientConnection, connect

from services.gateway import protocol
from visavis.audio import (
    MIC_CHUNK_MS,
    MIC_SAMPLE_RATE_HZ,
    Samples,
    duration_ms,
    pcm_to_samples,
    samples_to_pcm,
)
from visavis.clock import Clock, RealClock

logger = logging.getLogger(__name__)

JITTER_BUFFER_MS = 100
# The sound waits this long for the first picture, no longer.
PICTURE_WAIT_MS = 150
REFRESH_MS = 1000 / 60
REPORT_INTERVAL_MS = 200
MIC_HOLE_MS = 100
AUDIBLE = 0.01  # of full scale, -40 dBFS


class CallError(Exception):
    """The call could not begin or has ended in an error; the message is fit for the user."""


@dataclass(frozen=True)
class Picture:
    data: bytes
    pts_ms: float
    keyframe: bool
    loop_frame: int
    arrived_ms: float


@dataclass
class ReplyRecord:
    """One reply as this caller got and heard it. Times without other word are on the caller's clock."""

    epoch: int
    sample_rate_hz: int
    started_ms: float
    clauses: list[protocol.ReplyClause] = field(default_factory=list)
    pcm: bytearray = field(default_factory=bytearray)  # contiguous from the reply's first sample
    pictures: list[Picture] = field(default_factory=list)
    shown: list[tuple[float, float]] = field(default_factory=list)  # (pts_ms, A/V offset in ms)
    playing_since_ms: float | None = None  # when the first sample left the loudspeaker
    played_ms: float = 0.0
    gaps_ms: list[float] = field(default_factory=list)  # the loudspeaker ran dry in mid-reply
    dropped_pictures: int = 0
    first_shown_ms: float | None = None
    duration_ms: float | None = None  # known when all is sent
    loop_frame: int = 0
    reason: str = ""
    heard_text: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)
    stopped_ms: float | None = None

    @property
    def text(self) -> str:
        return "".join(clause.text for clause in self.clauses)

    @property
    def samples(self) -> Samples:
        return pcm_to_samples(bytes(self.pcm))

    @property
    def buffered_ms(self) -> float:
        return duration_ms(self.pcm, self.sample_rate_hz)

    @property
    def audible_ms(self) -> float | None:
        """When the first sample that can be heard left the loudspeaker."""
        loud = np.flatnonzero(np.abs(self.samples) > AUDIBLE)
        if self.playing_since_ms is None or not len(loud):
            return None
        return self.playing_since_ms + float(loud[0]) / self.sample_rate_hz * 1000


class Playout:
    """The loudspeaker and the screen: plays one reply in real time and reports how far it is."""

    def __init__(
        self, record: ReplyRecord, report: Callable[[ReplyRecord, bool], None], clock: Clock
    ) -> None:
        self._record = record
        self._report = report
        self._clock = clock
        self._paused = False
        self._stopped = False
        self._first_sound_ms: float | None = None
        self._sent = False
        self._shown_pts: list[float] = []

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def stop(self) -> None:
        self._stopped = True
        self._record.stopped_ms = self._clock.now_ms()

    def all_sent(self) -> None:
        self._sent = True

    async def run(self) -> None:
        """Returns when the reply has been played to its end or was stopped; reports on the way."""
        record, last_ms = self._record, self._clock.now_ms()
        reported_ms, dry_since = last_ms, None
        while not self._stopped:
            await self._clock.sleep_ms(REFRESH_MS)
            now_ms = self._clock.now_ms()
            elapsed_ms, last_ms = now_ms - last_ms, now_ms
            if self._paused or not self._may_play(now_ms):
                if self._sent and not record.pcm:
                    break
                continue
            if record.playing_since_ms is None:
                record.playing_since_ms, elapsed_ms = now_ms, 0.0
            room_ms = record.buffered_ms - record.played_ms
            if elapsed_ms > room_ms:  # ran dry
                if self._sent:
                    record.played_ms = record.buffered_ms
                    break
                dry_since = dry_since or now_ms - (elapsed_ms - room_ms)
            elif dry_since is not None:
                record.gaps_ms.append(now_ms - elapsed_ms - dry_since)
                dry_since = None
            record.played_ms += min(elapsed_ms, room_ms)
            self._draw(now_ms)
            if now_ms - reported_ms >= REPORT_INTERVAL_MS or reported_ms < record.playing_since_ms:
                reported_ms = now_ms
                self._report(record, False)
        self._report(record, True)

    def _may_play(self, now_ms: float) -> bool:
        record = self._record
        if record.playing_since_ms is not None:
            return True
        if not record.pcm:
            return False
        self._first_sound_ms = self._first_sound_ms or now_ms
        waited_ms = now_ms - self._first_sound_ms
        enough = record.buffered_ms >= JITTER_BUFFER_MS or self._sent
        return enough and (bool(record.pictures) or waited_ms >= PICTURE_WAIT_MS)

    def _draw(self, now_ms: float) -> None:
        """Shows the newest picture that is due; those it skips were late, and are dropped."""
        record = self._record

        def count_until(time_ms: float) -> int:
            return bisect.bisect_right(record.pictures, time_ms, key=lambda picture: picture.pts_ms)

        due = count_until(record.played_ms)
        last = count_until(record.shown[-1][0]) if record.shown else 0
        if due <= last:
            return
        record.dropped_pictures += due - last - 1
        pts_ms = record.pictures[due - 1].pts_ms
        record.shown.append((pts_ms, pts_ms - record.played_ms))
        record.first_shown_ms = record.first_shown_ms or now_ms


class Caller:
    """One call. Made by `dial`."""

    def __init__(self, connection: ClientConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._playout: Playout | None = None
        self._tasks: asyncio.TaskGroup
        self._to_send: asyncio.Queue[str | bytes] = asyncio.Queue(500)
        self._changed = asyncio.Condition()
        self._mic_ms = 0.0
        self._mic_begun_ms: float | None = None
        self.started: protocol.SessionStarted
        self.replies: list[ReplyRecord] = []
        self.user_texts: list[str] = []
        self.partials: list[str] = []
        self.errors: list[protocol.ErrorEvent] = []
        self.on_event: Callable[[protocol.ServerEvent], None] = lambda _: None
        self.closed = False

    # --- what the user does --------------------------------------------------------------------

    async def say(self, samples: Samples, trailing_silence_ms: float = 0) -> float:
        """Speaks 16 kHz samples [n] into the microphone, in real time, then silence.

        Returns the time at which the last sample that can be heard was spoken.
        """
        loud = np.flatnonzero(np.abs(samples) > AUDIBLE)
        last = int(loud[-1]) if len(loud) else 0
        begun_ms = self._open_microphone()
        silence = np.zeros(int(trailing_silence_ms * MIC_SAMPLE_RATE_HZ / 1000), np.float32)
        block = MIC_SAMPLE_RATE_HZ * MIC_CHUNK_MS // 1000
        sound = np.concatenate([samples, silence])
        for number, start in enumerate(range(0, len(sound), block)):
            due_ms = (
                begun_ms + (number + 1) * MIC_CHUNK_MS
            )  # a block exists when its end was spoken
            await self._clock.sleep_ms(due_ms - self._clock.now_ms())
            chunk = np.pad(sound[start : start + block], (0, max(0, start + block - len(sound))))
            await self._send_mic(samples_to_pcm(chunk))
        return begun_ms + last / MIC_SAMPLE_RATE_HZ * 1000

    def _open_microphone(self) -> float:
        """When the next sample is due: the microphone's clock runs on from where it was left.

        If it was left for long, the clock jumps to now, and the hole counts as silence.
        """
        now_ms = self._clock.now_ms()
        if self._mic_begun_ms is None:
            self._mic_begun_ms = now_ms
        if now_ms - (self._mic_begun_ms + self._mic_ms) > MIC_HOLE_MS:
            self._mic_ms = now_ms - self._mic_begun_ms
        return self._mic_begun_ms + self._mic_ms

    async def stay_silent(self) -> None:
        """Sends silence until cancelled, as an open microphone does."""
        while True:
            await self.say(np.zeros(MIC_SAMPLE_RATE_HZ // 10, np.float32))

    async def send_text(self, text: str) -> None:
        await self._send_event(protocol.TextSend(text=text))

    async def _send_mic(self, pcm: bytes) -> None:
        packet = protocol.MediaPacket(protocol.MediaKind.MIC, 0, self._mic_ms, pcm)
        self._mic_ms += duration_ms(pcm, MIC_SAMPLE_RATE_HZ)
        await self._to_send.put(packet.pack())

    async def _send_event(self, event: protocol.Event) -> None:
        await self._to_send.put(event.model_dump_json())

    # --- what the user waits for ---------------------------------------------------------------

    async def wait_for(self, condition: Callable[[], bool], timeout_ms: float) -> None:
        """Returns when the condition holds.

        Raises:
            CallError: the call ended first.
            TimeoutError: it took too long.
        """
        async with asyncio.timeout(timeout_ms / 1000), self._changed:
            await self._changed.wait_for(lambda: condition() or self.closed)
        if not condition():
            raise CallError(self.errors[-1].message if self.errors else "The connection was lost.")

    async def next_reply(self, after: int, timeout_ms: float = 30_000) -> ReplyRecord:
        """Waits until reply number `after` (counted from 0) is over, and returns it."""
        await self.wait_for(
            lambda: len(self.replies) > after and bool(self.replies[after].reason), timeout_ms
        )
        return self.replies[after]

    # --- the connection ------------------------------------------------------------------------

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            sending = self._tasks.create_task(self._send_loop(), name="send")
            try:
                async for message in self._connection:
                    if isinstance(message, str):
                        self._take_event(protocol.parse_server_event(message))
                    else:
                        self._take_media(protocol.MediaPacket.unpack(message))
                    await self._tell()
            except websockets.ConnectionClosed:
                pass
            finally:
                self.closed = True
                if self._playout is not None:
                    self._playout.stop()
                sending.cancel()
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _send_loop(self) -> None:
        try:
            while True:
                await self._connection.send(await self._to_send.get())
        except websockets.ConnectionClosed:
            pass  # the receiving side tells

    def _take_event(self, event: protocol.ServerEvent) -> None:
        match event:
            case protocol.SessionStarted():
                self.started = event
            case protocol.UserPartial():
                self.partials.append(event.text)
            case protocol.UserFinal():
                self.user_texts.append(event.text)
            case protocol.ReplyStarted():
                self._begin_reply(event)
            case protocol.ErrorEvent():
                self.errors.append(event)
            case protocol.TurnTimings():
                self._record(event.epoch).timings_ms = event.timings_ms
            case protocol.ReplyClause():
                self._record(event.epoch).clauses.append(event)
            case protocol.ReplyEnded():
                record = self._record(event.epoch)
                record.reason, record.heard_text = event.reason, event.heard_text
            case protocol.ReplySent():
                record = self._record(event.epoch)
                record.duration_ms, record.loop_frame = event.duration_ms, event.loop_frame
                self._steer(event.epoch, Playout.all_sent)
            case protocol.ReplyPause():
                self._steer(event.epoch, Playout.pause)
            case protocol.ReplyResume():
                self._steer(event.epoch, Playout.resume)
            case protocol.ReplyStop():
                self._steer(event.epoch, Playout.stop)
        self.on_event(event)

    def _begin_reply(self, event: protocol.ReplyStarted) -> None:
        record = ReplyRecord(event.epoch, event.sample_rate_hz, self._clock.now_ms())
        self.replies.append(record)
        if self._playout is not None:
            self._playout.stop()  # an older reply is void
        self._playout = Playout(record, self._report, self._clock)
        self._tasks.create_task(self._playout.run(), name=f"playout-{event.epoch}")

    def _record(self, epoch: int) -> ReplyRecord:
        return next(record for record in self.replies if record.epoch == epoch)

    def _steer(self, epoch: int, action: Callable[[Playout], None]) -> None:
        if self._playout is not None and self.replies[-1].epoch == epoch:
            action(self._playout)

    def _report(self, record: ReplyRecord, ended: bool) -> None:
        report = protocol.PlaybackReport(
            epoch=record.epoch,
            played_ms=record.played_ms,
            ended=ended,
            loop_frame=record.loop_frame,
        )
        try:
            self._to_send.put_nowait(report.model_dump_json())
        except asyncio.QueueFull:
            logger.warning("a playback report was lost: the connection is slow")

    def _take_media(self, packet: protocol.MediaPacket) -> None:
        if not self.replies or packet.epoch != self.replies[-1].epoch:
            return  # of a reply that is void
        record = self.replies[-1]
        if packet.kind is protocol.MediaKind.SPEECH:
            record.pcm += packet.payload
        elif packet.kind is protocol.MediaKind.VIDEO:
            record.pictures.append(
                Picture(
                    packet.payload,
                    packet.pts_ms,
                    packet.keyframe,
                    packet.loop_frame,
                    self._clock.now_ms(),
                )
            )


@asynccontextmanager
async def dial(
    url: str,
    start: protocol.SessionStart | None = None,
    on_event: Callable[[protocol.ServerEvent], None] | None = None,
) -> AsyncIterator[Caller]:
    """Calls a gateway: `async with dial("ws://127.0.0.1:8080/v1/call") as caller`. Hangs up at the end.

    Raises:
        CallError: nobody answers, or the gateway refuses; the message says why.
    """
    try:
        connection = await connect(
            url, compression=None, max_size=8 * 2**20, open_timeout=5, proxy=None
        )
    except (OSError, TimeoutError, websockets.WebSocketException) as error:
        raise CallError(f"Nobody answers at {url} ({error}). Is `make run` running?") from None
    caller = Caller(connection, RealClock())
    caller.on_event = on_event or caller.on_event
    try:
        async with connection, asyncio.TaskGroup() as tasks:
            tasks.create_task(caller.run(), name="caller")
            await connection.send((start or protocol.SessionStart()).model_dump_json())
            await caller.wait_for(lambda: hasattr(caller, "started"), 15_000)
            try:
                yield caller
            finally:
                await connection.close()
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that the caller's own code raised, without the group around it."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
