"""How a call feels: `python -m tests.bench.call [--profile standard] [--turns 12]`.

Starts the whole system, calls it over the WebSocket in real time, and measures on the sound and the pictures
that came back. Then asks the same questions of the same workers with the stages one after the other.
The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from services.asr.backend import load_backend as load_ear
from services.asr.settings import Settings as EarSettings
from services.gateway.clients import Channels, Stages
from services.gateway.history import History, Turn
from tests.bench.questions import spoken_questions
from tests.system import running_system
from visavis.audio import MIC_CHUNK_MS, MIC_SAMPLE_RATE_HZ, Samples, blocks, samples_to_pcm
from visavis.client import AUDIBLE, Caller, ReplyRecord, dial
from visavis.metrics import percentile
from visavis.persona import load_persona
from visavis.redis_server import start_redis
from visavis.streams import Streams, TurnWriter, stream_key
from visavis.v1.asr_pb2 import MicMessage, TranscribeRequest, TranscriptMessage
from visavis.v1.common_pb2 import AudioChunk, TurnRef
from visavis.v1.llm_pb2 import GenerateRequest, ReplyMessage, WarmRequest
from visavis.v1.talkinghead_pb2 import AnimateRequest, VideoCodec, VideoFormat
from visavis.v1.tts_pb2 import SynthesizeRequest


async def call_and_ask(url: str, questions: list[Samples]) -> list[tuple[ReplyRecord, float]]:
    """One call; every question is asked when the answer before it has ended. Returns (reply, end of speech)."""
    results = []
    async with dial(url.replace("http", "ws") + "/v1/call") as caller:
        silence = asyncio.ensure_future(caller.stay_silent())
        await caller.next_reply(0)
        for question in questions:
            number = len(caller.replies)
            await _stop(silence)
            spoken_ms = await caller.say(question, trailing_silence_ms=40)
            silence = asyncio.ensure_future(caller.stay_silent())
            reply = await caller.next_reply(number, 60_000)
            results.append((reply, spoken_ms))
            await asyncio.sleep(0.3)
            print(_line(caller, reply, spoken_ms), flush=True)
        await _stop(silence)
    return results


async def _stop(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _line(caller: Caller, reply: ReplyRecord, spoken_ms: float) -> str:
    heard = reply.audible_ms - spoken_ms if reply.audible_ms else float("nan")
    return (
        f"{heard:6.0f} ms  {caller.user_texts[-1]!r} -> {reply.text.strip()!r} {reply.reason}"
        f" {reply.timings_ms}"
    )


class Sequential:
    """The same workers, one after the other: each stage waits for the end of the one before.

    As warm as in a call: one session, one history, the prompt so far in the model's cache.
    """

    def __init__(self, streams: Streams, stages: Stages) -> None:
        self._streams = streams
        self._stages = stages
        self._persona = load_persona("theo")
        self._history = History()
        self._session_id = "sequential"
        self._epoch = 0
        # The ear of the running system starts its final pass before it knows that the turn is over, so one of
        # its own does it here.
        self._recognizer = load_ear(EarSettings()).open("en")

    async def warm(self) -> None:
        messages = self._history.messages(self._persona)
        await self._stages.warm(WarmRequest(session_id=self._session_id, messages=messages))

    async def voice_to_voice_ms(self, question: Samples) -> float:
        """From the last sample of speech that can be heard until sound and pictures are complete."""
        self._epoch += 1
        text, elapsed_ms = await self._listen(question)
        begun = time.monotonic()
        turn = TurnRef(session_id=self._session_id, epoch=self._epoch)
        messages = self._history.messages(self._persona, text)
        await self._stages.generate(
            GenerateRequest(
                turn=turn, reply_stream=self._key("reply"), messages=messages, max_tokens=120
            ),
            _ignore,
        )
        await self._stages.synthesize(
            SynthesizeRequest(
                turn=turn, reply_stream=self._key("reply"), speech_stream=self._key("speech")
            ),
            _ignore,
        )
        await self._stages.animate(
            AnimateRequest(
                turn=turn,
                speech_stream=self._key("speech"),
                video_stream=self._key("video"),
                persona_id=self._persona.id,
                format=VideoFormat(codec=VideoCodec.VIDEO_CODEC_H264, size_px=512),
            ),
            _ignore,
        )
        elapsed_ms += (time.monotonic() - begun) * 1000
        self._history.add(Turn("user", text))
        self._history.add(Turn("agent", await self._reply_text()))
        return elapsed_ms

    async def _reply_text(self) -> str:
        deltas = []
        async with self._streams.subscribe(self._key("reply"), self._epoch, ReplyMessage) as reply:
            async for message in reply:
                if message.HasField("end"):
                    break
                deltas.append(message.text_delta)
        return "".join(deltas)

    def _key(self, content: str) -> str:
        return stream_key(self._session_id, content)

    async def _listen(self, question: Samples) -> tuple[str, float]:
        """Speaks in real time; waits for the judgement that the turn is over, and only then reads the sound.

        Returns the final text, and how long after the last audible sample a recogniser that begins there has it.
        """
        request = TranscribeRequest(
            turn=TurnRef(session_id=self._session_id, epoch=self._epoch),
            mic_stream=self._key("mic"),
            transcript_stream=self._key("transcript"),
        )
        lease = asyncio.ensure_future(self._stages.transcribe(request, _ignore))
        async with self._streams.subscribe(
            self._key("transcript"), self._epoch, TranscriptMessage
        ) as heard:
            speaking = asyncio.ensure_future(self._speak(question))
            text, judged_at = await _final(heard)
            await _stop(speaking)
        await _stop(lease)
        begun = time.monotonic()
        await asyncio.to_thread(self._recognizer.final_text, question)
        return text, (judged_at - self._spoken + time.monotonic() - begun) * 1000

    async def _speak(self, question: Samples) -> None:
        mic = TurnWriter[MicMessage](self._streams, self._key("mic"), self._epoch)
        last = max(n for n, sample in enumerate(question) if abs(sample) > AUDIBLE)
        begun = time.monotonic()
        self._spoken = begun + last / MIC_SAMPLE_RATE_HZ
        silence = bytes(MIC_SAMPLE_RATE_HZ * 2 * 5)
        pcm = samples_to_pcm(question) + silence
        for number, block in enumerate(blocks(pcm, MIC_SAMPLE_RATE_HZ, MIC_CHUNK_MS)):
            await asyncio.sleep(begun + (number + 1) * MIC_CHUNK_MS / 1000 - time.monotonic())
            audio = AudioChunk(
                pcm=block, sample_rate_hz=MIC_SAMPLE_RATE_HZ, pts_ms=number * MIC_CHUNK_MS
            )
            await mic.write(MicMessage(audio=audio))


async def _final(heard: AsyncIterator[TranscriptMessage]) -> tuple[str, float]:
    """The first final text with words, and when the end of its turn was judged."""
    judged_at = 0.0
    async for message in heard:
        if message.HasField("end_of_turn"):
            judged_at = time.monotonic()
        if message.HasField("final") and message.final.text.strip():
            return message.final.text, judged_at or time.monotonic()
    raise RuntimeError("the ear said nothing")


def _ignore(_: object) -> None:
    pass


async def measure(url: str, redis_url: str, questions: list[Samples]) -> dict[str, object]:
    turns = await call_and_ask(url, questions)
    async with Streams(redis_url) as streams, Channels() as channels:
        sequential = Sequential(streams, Stages(streams, channels))
        await sequential.warm()
        sequential_ms = [await sequential.voice_to_voice_ms(question) for question in questions]
    return {**summary(turns), **compare(turns, sequential_ms)}


def summary(turns: list[tuple[ReplyRecord, float]]) -> dict[str, object]:
    replies = [reply for reply, _ in turns]
    played_s = sum(reply.played_ms for reply in replies) / 1000
    offsets = [abs(offset) for reply in replies for _, offset in reply.shown]
    points = sorted({point for reply in replies for point in reply.timings_ms})
    return {
        "turns": len(turns),
        "unanswered": sum(reply.audible_ms is None for reply in replies),
        "voice_to_voice_ms": _spread([r.audible_ms - s for r, s in turns if r.audible_ms]),
        "first_frame_ms": _spread([r.first_shown_ms - s for r, s in turns if r.first_shown_ms]),
        "video_fps": round(sum(len(reply.shown) for reply in replies) / played_s, 2),
        "dropped_frames": sum(reply.dropped_pictures for reply in replies),
        "av_offset_ms": _spread(offsets),
        "audio_gaps": sum(len(reply.gaps_ms) for reply in replies),
        "audio_gap_ms": round(sum(sum(reply.gaps_ms) for reply in replies)),
        "speech_seconds": round(played_s, 1),
        "stages_ms": {
            point: _spread([r.timings_ms[point] for r in replies if point in r.timings_ms])
            for point in points
        },
    }


def compare(
    turns: list[tuple[ReplyRecord, float]], sequential_ms: list[float]
) -> dict[str, object]:
    streamed = percentile([r.audible_ms - s for r, s in turns if r.audible_ms], 50)
    return {
        "sequential_voice_to_voice_ms": _spread(sequential_ms),
        "speedup": round(percentile(sequential_ms, 50) / streamed, 2) if streamed else None,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"p50": round(percentile(values, 50), 1), "p95": round(percentile(values, 95), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--questions", type=Path, help="A folder of wavs to ask instead.")
    options = parser.parse_args()
    questions = spoken_questions(options.questions, options.turns)
    os.environ["VISAVIS_PROFILE"] = options.profile
    with tempfile.TemporaryDirectory() as folder, start_redis(Path(folder)) as redis:
        log_path = Path(folder) / "run.log"
        with running_system(log_path, options.profile, redis.url) as url:
            result = asyncio.run(measure(url, redis.url, questions))
    print(json.dumps({"profile": options.profile, **result}))


if __name__ == "__main__":
    main()
