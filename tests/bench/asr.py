"""How well and how soon the ear hears: word error rate, latency, end of turn.

    python -m tests.bench.asr --data DIR [--profile standard|small] [--voices N]

DIR holds sound files and `transcripts.tsv` (file name, tab, text). Sentences and longer passages are also spoken by the
Piper and Kokoro voices whose weights are in the store (kept under `bench/` there, since making them takes
minutes). Everything is heard twice: clean, and in a room with noise. The last line is one JSON object.
"""

import argparse
import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faster_whisper.audio import decode_audio

from services.asr.backend import Backend, load_backend
from services.asr.settings import Settings
from tests.asr.listening import Listening, listening, silence
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples, read_wav, resample, write_wav
from visavis.metrics import percentile
from visavis.models import ModelMissing, model_path, store_dir

SENTENCES = """\
Hello there, how are you doing today?
I was wondering if you could help me find a good recipe for dinner.
What is the capital of France?
Tell me a story about a fox who lived by the river.
Yes, please.
Can you explain how rainbows form in the sky?
I had a really long day at work and I just want to relax.
My sister is coming to visit on Saturday, and I need to clean the house before she arrives.
Do you think it will rain tomorrow morning?
What would you do if you won the lottery?
Could you repeat that a little more slowly?
Wait, that is not what I meant.
I have been learning to play the guitar, but my fingers hurt after every lesson.
Turn the volume down, please.
How long does it take to fly from London to New York?
Actually, I changed my mind. Let us go to the beach instead."""

# Dickens, Carroll, Melville, Lincoln: public domain. The last is ours.
PASSAGES = """\
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of light, it was the season of darkness, it was the spring of hope, it was the winter of despair.
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do. Once or twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, and what is the use of a book, thought Alice, without pictures or conversations?
Call me Ishmael. Some years ago, having little or no money in my purse, and nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of the world.
Our fathers brought forth on this continent a new nation, conceived in liberty, and dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war, testing whether that nation, or any nation so conceived and so dedicated, can long endure.
When I was younger my grandfather used to take me fishing every summer. We would get up before the sun, pack some sandwiches, and walk down to the lake. I never caught much, but I remember the quiet, and the way the mist moved over the water."""

VOICES = ("piper", "af_heart", "am_michael", "bf_emma", "bm_george", "am_fenrir", "af_bella")
ROOM_SNR_DB = 20
ROOM_RT60_S = 0.4
ROOM_DIRECT = 4.0  # direct sound over the first reflection
CUT = 0.6  # of a sentence: surely not the end of a turn


@dataclass(frozen=True)
class Clip:
    name: str
    sound: Samples
    text: str


# Clips


def recorded(folder: Path) -> Iterator[Clip]:
    for line in (folder / "transcripts.tsv").read_text("utf-8").splitlines():
        name, text = line.split("\t")
        yield Clip(name, decode_audio(str(folder / name), MIC_SAMPLE_RATE_HZ), text)


def spoken(texts: list[str], voices: int, shift: int) -> Iterator[Clip]:
    """Each text by one voice in turn; voices without weights are left out."""
    for index, text in enumerate(texts):
        voice = VOICES[(index + shift) % voices]
        path = (
            store_dir()
            / "bench"
            / f"{hashlib.sha256(f'{voice} {text}'.encode()).hexdigest()[:16]}.wav"
        )
        if not path.exists():
            try:
                samples, rate_hz = say(text, voice)
            except (ImportError, ModelMissing) as error:
                print(f"left out: {voice} ({error})")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_wav(path, resample(samples, rate_hz, MIC_SAMPLE_RATE_HZ), MIC_SAMPLE_RATE_HZ)
        yield Clip(f"{voice}: {text[:30]}", read_wav(path)[0], text)


def say(text: str, voice: str) -> tuple[Samples, int]:
    if voice == "piper":
        from piper import PiperVoice

        piper = PiperVoice.load(str(model_path("piper-joe")))
        pieces = [chunk.audio_float_array for chunk in piper.synthesize(text)]
        return np.concatenate(pieces).astype(np.float32), piper.config.sample_rate
    from kokoro_onnx import Kokoro

    folder = model_path("kokoro-82m")
    kokoro = Kokoro(str(folder / "kokoro-v1.0.int8.onnx"), str(folder / "voices.npz"))
    samples, rate_hz = kokoro.create(
        text, voice=voice, lang="en-gb" if voice[0] == "b" else "en-us"
    )
    return samples.astype(np.float32), rate_hz


def in_a_room(sound: Samples) -> Samples:
    """Exponentially decaying reflections, and pink noise below the speech."""
    rng = np.random.default_rng(len(sound))
    times_s = np.arange(int(ROOM_RT60_S * MIC_SAMPLE_RATE_HZ)) / MIC_SAMPLE_RATE_HZ
    response = rng.standard_normal(len(times_s)) * 10 ** (-3 * times_s / ROOM_RT60_S)
    response[0] = ROOM_DIRECT * np.abs(response[1:]).max()
    size = len(sound) + len(response)
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)
    wet *= np.abs(sound).max() / np.abs(wet).max()
    noise = pink_noise(rng, size)
    level = np.sqrt(np.mean(wet**2) / np.mean(noise**2)) * 10 ** (-ROOM_SNR_DB / 20)
    return (wet + level * noise).astype(np.float32)


def pink_noise(rng: np.random.Generator, size: int) -> Samples:
    spectrum = np.fft.rfft(rng.standard_normal(size))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), size).astype(
        np.float32
    )


# Word error rate

_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SAME = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "ok": "okay", "neighbours": "neighbors",
    "i'm": "i am", "i've": "i have", "i'd": "i would", "let's": "let us", "that's": "that is",
    "it's": "it is", "don't": "do not", "we're": "we are", "you're": "you are",
}  # fmt: skip


def words(text: str) -> list[str]:
    """The words as they sound: case, marks, short forms and small numbers make no difference."""
    bare = re.findall(r"[a-z']+|\d+", text.lower().replace("’", "'"))
    return " ".join(_spelled(word.strip("'")) for word in bare).split()


def _spelled(word: str) -> str:
    if not word.isdigit() or int(word) > 99:
        return _SAME.get(word, word)
    tens, units = divmod(int(word), 10)
    if tens < 2:
        return _UNITS[int(word)]
    return _TENS[tens - 2] + (f" {_UNITS[units]}" if units else "")


def errors(reference: list[str], heard: list[str]) -> int:
    """Words to change, add or leave out."""
    row = list(range(len(heard) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(heard, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != found)),
            )
    return row[-1]


async def heard(backend: Backend, settings: Settings, sound: Samples) -> str:
    """The session's text for a clip, fed as fast as it takes it."""
    async with listening(backend, settings) as ear:
        await ear.hear(np.concatenate([silence(500), sound, silence(500)]))
        await ear.end(timeout_s=120)
        return ear.finals[-1] if ear.finals else ""


async def word_error_rate(
    label: str, clips: list[Clip], backend: Backend, settings: Settings
) -> float:
    wrong = total = 0
    for clip in clips:
        text = await heard(backend, settings, clip.sound)
        count = errors(words(clip.text), words(text))
        wrong, total = wrong + count, total + len(words(clip.text))
        if count:
            print(f"  {count} in {clip.name}: {text}")
    print(f"{label}: {wrong} of {total} words wrong")
    return round(wrong / max(1, total), 4)


# Latency, end of turn, noise


async def latencies_ms(clips: list[Clip], backend: Backend, settings: Settings) -> list[float]:
    """From the arrival of the last voiced sample to the final, with sound that comes in real time."""
    found = []
    for clip in clips:
        async with listening(backend, settings) as ear:
            await in_real_time(ear, np.concatenate([silence(300), clip.sound, silence(1000)]))
            await ear.end(timeout_s=60)
            found += ear.latencies[-1:]
    return found


async def in_real_time(ear: Listening, sound: Samples) -> None:
    start = time.monotonic()
    for begin in range(0, len(sound), 320):
        due = start + begin / MIC_SAMPLE_RATE_HZ
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await ear.hear(sound[begin : begin + 320])


def end_of_turn(clips: list[Clip], backend: Backend) -> dict[str, float]:
    """Share of whole sentences taken for ended, and of cut ones."""
    recognizer = backend.open("en")

    def share(sounds: list[Samples]) -> float:
        ended = [recognizer.end_of_turn_probability(sound) > 0.5 for sound in sounds]
        return round(sum(ended) / max(1, len(ended)), 3)

    whole = [np.concatenate([clip.sound, silence(96)]) for clip in clips]
    cut = [np.concatenate([c.sound[: int(CUT * len(c.sound))], silence(96)]) for c in clips]
    return {"end_of_turn_whole": share(whole), "end_of_turn_cut": share(cut)}


async def invented_words(backend: Backend, settings: Settings) -> int:
    """Words heard in 20 s each of silence, white and pink noise, key strokes."""
    rng = np.random.default_rng(0)
    size = 20 * MIC_SAMPLE_RATE_HZ
    keys = np.zeros(size, np.float32)
    for begin in range(0, size - 800, 3_000):
        keys[begin : begin + 800] = rng.standard_normal(800) * np.exp(-np.arange(800) / 120)
    pink = pink_noise(rng, size)
    sounds = [
        np.zeros(size, np.float32),
        0.05 * rng.standard_normal(size).astype(np.float32),
        0.3 * pink / np.abs(pink).max(),
        0.4 * keys,
    ]
    return sum([len(words(await heard(backend, settings, sound))) for sound in sounds])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with sound files and transcripts.tsv")
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--voices", type=int, default=len(VOICES))
    arguments = parser.parse_args()

    settings = Settings(backend="embedded", profile=arguments.profile)
    sentences = list(spoken(SENTENCES.splitlines(), arguments.voices, 0))
    passages = list(spoken(PASSAGES.splitlines(), arguments.voices, 1))
    clips = list(recorded(arguments.data)) if arguments.data else []
    backend = load_backend(settings)

    result: dict[str, float | str] = {"profile": arguments.profile}
    for label, some in (("recorded", clips), ("sentences", sentences), ("passages", passages)):
        rooms = [Clip(clip.name, in_a_room(clip.sound), clip.text) for clip in some]
        result[f"wer_{label}"] = await word_error_rate(label, some, backend, settings)
        result[f"wer_{label}_room"] = await word_error_rate(
            f"{label} in a room", rooms, backend, settings
        )
    timed = await latencies_ms([*clips, *sentences], backend, settings)
    result["final_p50_ms"] = round(percentile(timed, 50))
    result["final_p95_ms"] = round(percentile(timed, 95))
    result |= end_of_turn([*clips, *sentences], backend)
    result["invented_words"] = await invented_words(backend, settings)
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
