"""How many faces a core can show: `python -m tests.bench.talkinghead`. The last line is one JSON object.

Two measurements for each codec and number of sessions, of the session with its threads, without gRPC and Redis:
- flat out: no limit by credit; pictures per second of CPU time, rendering and encoding together.
- live: sessions start one after the other and play in real time, with reports of the playback position every
  200 ms, as a browser sends them. Slack is the time from writing a picture until it should be seen.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from services.talkinghead.backend import FRAME_MS, Backend, load_backend
from services.talkinghead.codec import available_codecs, open_encoder
from services.talkinghead.scheduler import Scheduler, pictures_dropped
from services.talkinghead.session import AnimationSession
from services.talkinghead.settings import Settings
from services.tts.backends.fake import FakeBackend as FakeVoice
from visavis.audio import blocks, duration_ms
from visavis.credit import Credit
from visavis.metrics import percentile
from visavis.v1.common_pb2 import AudioChunk
from visavis.v1.talkinghead_pb2 import VideoCodec, VideoFormat, VideoMessage
from visavis.v1.tts_pb2 import Clause, SpeechEnd, SpeechMessage, TimedPhoneme

SESSIONS = (1, 2, 4, 8)
LEAD_MS = 600
REPORT_MS = 200
CHUNK_MS = 100
TEXT = "Many moons above the bay make fabulous evening views for people who often move about. "


def speech(length_ms: float) -> list[SpeechMessage]:
    """About this much speech of the fake voice: a phoneme every 60 ms."""
    voice, messages, at_ms = FakeVoice(0), [], 0.0
    while at_ms < length_ms:
        said = voice.synthesize(TEXT, "fake")
        phonemes = [
            TimedPhoneme(symbol=p.text, start_ms=at_ms + p.start_ms, end_ms=at_ms + p.end_ms)
            for p in said.phonemes
        ]
        end_ms = at_ms + duration_ms(said.pcm, voice.sample_rate_hz)
        clause = Clause(text=TEXT, start_ms=at_ms, end_ms=end_ms, phonemes=phonemes)
        messages.append(SpeechMessage(clause=clause))
        for pcm in blocks(said.pcm, voice.sample_rate_hz, CHUNK_MS):
            chunk = AudioChunk(pcm=pcm, sample_rate_hz=voice.sample_rate_hz, pts_ms=at_ms)
            messages.append(SpeechMessage(audio=chunk))
            at_ms += duration_ms(pcm, voice.sample_rate_hz)
    return [*messages, SpeechMessage(end=SpeechEnd(duration_ms=at_ms))]


@dataclass
class Worker:
    """What the sessions of one process share."""

    backend: Backend[Any]
    threads: int
    format: VideoFormat
    scheduler: Scheduler[Any] = field(init=False)
    executor: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.backend, ThreadPoolExecutor(1, "render"))
        self.executor = ThreadPoolExecutor(self.threads, "encode")


@dataclass
class Watched:
    """What came out of one turn."""

    first_ms: float = 0
    pictures: int = 0
    size_bytes: int = 0
    slack_ms: list[float] = field(default_factory=list)


async def show(worker: Worker, said: list[SpeechMessage], lead_ms: float, number: int) -> Watched:
    """Plays one turn, in real time if there is a lead."""
    await asyncio.sleep(number * 0.03 if lead_ms else 0)
    animation = worker.backend.open("theo", 30 * number)
    encoder = await asyncio.to_thread(open_encoder, worker.format)
    session = AnimationSession(animation, encoder, worker.scheduler, worker.executor)
    credit, watched = Credit(lead_ms), Watched()
    started = time.perf_counter()
    heard = [
        started
    ]  # when playback began: with the first picture, as the browser has buffered sound

    def played_ms() -> float:
        return (time.perf_counter() - heard[0]) * 1000 if watched.pictures else 0

    async def listen() -> AsyncIterator[SpeechMessage]:
        for message in said:
            yield message

    async def emit(message: VideoMessage) -> None:
        if not message.HasField("frame"):
            return
        if not watched.pictures:
            heard[0] = time.perf_counter()
            watched.first_ms = (heard[0] - started) * 1000
        watched.pictures += 1
        watched.size_bytes += len(message.frame.data)
        watched.slack_ms.append(message.frame.pts_ms - played_ms())

    async def report() -> None:
        while True:
            await asyncio.sleep(REPORT_MS / 1000)
            credit.played(played_ms())

    async with asyncio.TaskGroup() as tasks:
        reporting = tasks.create_task(report())
        await session.run(listen(), emit, credit, lead_ms)
        reporting.cancel()
    return watched


async def measure(worker: Worker, seconds: float, sessions: int) -> dict[str, float]:
    said = speech(seconds * 1000)
    cpu, wall = time.process_time(), time.perf_counter()
    flat_out = await asyncio.gather(*(show(worker, said, 0, n) for n in range(sessions)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    pictures = sum(watched.pictures for watched in flat_out)
    size_bytes = sum(watched.size_bytes for watched in flat_out)

    dropped = pictures_dropped._value.get()
    live_cpu, live_wall = time.process_time(), time.perf_counter()
    live = await asyncio.gather(*(show(worker, said, LEAD_MS, n) for n in range(sessions)))
    slack = [slack for watched in live for slack in watched.slack_ms]
    first = [watched.first_ms for watched in live]
    live_cpu, live_wall = time.process_time() - live_cpu, time.perf_counter() - live_wall
    return {
        "sessions": sessions,
        "fps_per_core": pictures / cpu,
        "fps": pictures / wall,
        "kbit_s_per_session": size_bytes * 8 / 1000 / (pictures / 25),
        "first_picture_p50_ms": percentile(first, 50),
        "first_picture_p95_ms": percentile(first, 95),
        "slack_p50_ms": percentile(slack, 50),
        "slack_p5_ms": percentile(slack, 5),
        "late": sum(ms < -FRAME_MS for ms in slack) + pictures_dropped._value.get() - dropped,
        "cores_live": live_cpu / live_wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="viseme")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    backend = load_backend(Settings(backend=args.backend))
    results: dict[str, list[dict[str, float]]] = {}
    for name in available_codecs():
        format = VideoFormat(
            codec=VideoCodec.Value(f"VIDEO_CODEC_{name.upper()}"), size_px=args.size_px
        )
        results[name] = []
        for sessions in SESSIONS:
            worker = Worker(backend, args.threads, format)
            row = asyncio.run(measure(worker, args.seconds, sessions))
            results[name].append({key: round(value, 2) for key, value in row.items()})
            print(name, " ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    print(json.dumps({"backend": args.backend, "size_px": args.size_px, "results": results}))


if __name__ == "__main__":
    main()
