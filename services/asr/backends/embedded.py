"""The ear that needs no GPU and no account: Silero, Smart Turn, Moonshine and Whisper on the processor.

Features: Whisper reads a window as short as the sound allows instead of 30 s, for the same words in a third
of the time; text that Whisper makes up for silence or noise is recognised by its own doubts and dropped.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from faster_whisper import WhisperModel
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.transcribe import get_ctranslate2_storage
from moonshine_voice.moonshine_api import ModelArch
from moonshine_voice.transcriber import Transcriber
from numpy.typing import NDArray

from services.asr.backend import FRAME_SAMPLES
from services.asr.endpointing import quietest_moment
from services.asr.settings import Settings
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples
from visavis.models import model_path

Features = NDArray[np.float32]  # [mel bands, frames of 10 ms]

WHISPER = {"standard": "whisper-base", "small": "whisper-tiny.en"}

# Silero reads each frame with the end of the one before.
SILERO_CONTEXT = 64

# Smart Turn hears 8 s that end with 200 ms of silence, as it was trained. It is asked when the gap is half
# as long, so silence is added.
TURN_SAMPLES = 8 * MIC_SAMPLE_RATE_HZ
TURN_SILENCE = MIC_SAMPLE_RATE_HZ // 10

# Whisper's encoder costs what its window costs. It was trained on 30 s. Measured: in a window just longer
# than the sound, but no shorter than 8 s, it makes as few errors, as long as it is asked for timestamps.
# Without them it skips whole sentences (16 % of the words, in sound of 10 to 27 s); with them, it rarely
# does, and the timestamps show it.
WINDOW_MIN_S = 8
WINDOW_MAX_S = 30
WINDOW_MARGIN_S = 1
PART_MAX_S = 28

# Nobody speaks faster in any language; a pass that goes on is repeating itself.
TOKENS_PER_SECOND = 15  # timestamps too
TOKENS_MIN = 16
TOKENS_MAX = 224  # of Whisper
# zlib's gain on a text that repeats itself.
COMPRESSION_MAX = 2.4

# Invented text. Measured on noise, clicks, hum, key strokes: no_speech .43 and more, log probability mostly
# below -1, or a text that repeats itself; on speech, down to 5 dB of noise: no_speech below .3, log
# probability above -1.4 (single words are the lowest).
NO_SPEECH_MIN = 0.4
LOG_PROBABILITY_UNSURE = -0.8
LOG_PROBABILITY_MIN = -2.0


# A stretch of sound without text that is this long, and not much softer than the rest, has been skipped.
SKIPPED_SECONDS = 1.5
SKIPPED_LEVEL = 0.5
SECONDS_PER_TIMESTAMP = 0.02


@dataclass(frozen=True)
class Segment:
    """What Whisper says was said between two of its timestamps."""

    start: int  # in samples
    end: int
    tokens: list[int]


@dataclass(frozen=True)
class Decoded:
    text: str
    log_probability: float  # mean over tokens
    no_speech: float
    skipped_speech: bool
    ran_on: bool  # came to no end by itself

    @property
    def is_invented(self) -> bool:
        if not any(char.isalnum() for char in self.text):
            return True
        if self.no_speech > NO_SPEECH_MIN:
            return self.log_probability < LOG_PROBABILITY_UNSURE or self.repeats_itself
        return self.log_probability < LOG_PROBABILITY_MIN

    @property
    def repeats_itself(self) -> bool:
        text = self.text.encode()
        return self.ran_on or bool(text) and len(text) / len(zlib.compress(text)) > COMPRESSION_MAX


class Whisper:
    """Final text. Greedy, at temperature 0, without the text before: the same sound gives the same words."""

    def __init__(self, name: str, threads: int) -> None:
        self._model = WhisperModel(
            str(model_path(name)),
            device="cpu",
            compute_type="int8",
            cpu_threads=threads,
            local_files_only=True,
        )
        multilingual = self._model.model.is_multilingual
        others = sorted(set(self._model.supported_languages) - {"en"})
        self.languages = ["en", *others] if multilingual else ["en"]
        # In the vocabulary, text comes before the marks, timestamps after them.
        self._end_of_text = self._model.hf_tokenizer.token_to_id("<|endoftext|>")
        self._first_timestamp = self._model.hf_tokenizer.token_to_id("<|notimestamps|>") + 1

    def text(self, samples: Samples, language: str) -> str:
        texts = [self._part_text(part, language) for part in parts(samples)]
        return " ".join(text for text in texts if text)

    def _part_text(self, samples: Samples, language: str) -> str:
        window_s = math.ceil(len(samples) / MIC_SAMPLE_RATE_HZ + WINDOW_MARGIN_S)
        decoded = self._decode(samples, max(WINDOW_MIN_S, window_s), language)
        if (
            decoded.repeats_itself or decoded.skipped_speech
        ):  # rare in 30 s, which it was trained on
            decoded = self._decode(samples, WINDOW_MAX_S, language)
        return "" if decoded.is_invented else decoded.text

    def _decode(self, samples: Samples, window_s: int, language: str) -> Decoded:
        padded = np.pad(samples, (0, max(0, window_s * MIC_SAMPLE_RATE_HZ - len(samples))))
        features: Features = self._model.feature_extractor(padded)[:, : window_s * 100]
        encoded = self._model.model.encode(get_ctranslate2_storage(features[None]))
        seconds = len(samples) / MIC_SAMPLE_RATE_HZ
        tokens_max = min(TOKENS_MAX, TOKENS_MIN + math.ceil(TOKENS_PER_SECOND * seconds))
        result = self._model.model.generate(
            encoded,
            [self._prompt(language)],
            beam_size=1,
            max_length=2 * tokens_max,  # of which CTranslate2 generates half
            max_initial_timestamp_index=50,  # speech begins within the first second
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        tokens = result.sequences_ids[0]
        # Text that is said to begin after the end of the sound is a repetition of its last words.
        said = [s for s in self._segments(tokens) if s.start < len(samples)]
        text = self._model.hf_tokenizer.decode([t for segment in said for t in segment.tokens])
        return Decoded(
            text.strip(),
            log_probability=result.scores[0],
            no_speech=result.no_speech_prob,
            skipped_speech=skips_speech(samples, said),
            ran_on=len(tokens) >= tokens_max - 1
            and sum(len(segment.tokens) for segment in said) > tokens_max / 2,
        )

    def _segments(self, tokens: list[int]) -> Iterator[Segment]:
        position, words = 0, list[int]()
        for token in tokens:
            if token < self._end_of_text:
                words.append(token)
            elif token >= self._first_timestamp:
                seconds = (token - self._first_timestamp) * SECONDS_PER_TIMESTAMP
                at = round(seconds * MIC_SAMPLE_RATE_HZ)
                if words:
                    yield Segment(position, at, words)
                position, words = at, []
        if words:  # cut off before its end
            yield Segment(position, WINDOW_MAX_S * MIC_SAMPLE_RATE_HZ, words)

    def _prompt(self, language: str) -> list[int]:
        tokens = ["<|startoftranscript|>"]
        if len(self.languages) > 1:
            tokens += [f"<|{language}|>", "<|transcribe|>"]
        return [self._model.hf_tokenizer.token_to_id(token) for token in tokens]


def parts(samples: Samples) -> Iterator[Samples]:
    """The sound in pieces that fit Whisper's window, cut where it is quiet."""
    longest = PART_MAX_S * MIC_SAMPLE_RATE_HZ
    while len(samples) > longest:
        cut = quietest_moment(samples[:longest], last_seconds=5)
        yield samples[:cut]
        samples = samples[cut:]
    yield samples


def skips_speech(samples: Samples, said: list[Segment]) -> bool:
    level = SKIPPED_LEVEL * rms(samples)
    position = 0
    for start, end in [*((s.start, s.end) for s in said), (len(samples), len(samples))]:
        hole = samples[position:start]
        if len(hole) > SKIPPED_SECONDS * MIC_SAMPLE_RATE_HZ and rms(hole) > level:
            return True
        position = end
    return False


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0


class SmartTurn:
    def __init__(self) -> None:
        self._model = onnx_session("smart-turn")
        self._features = FeatureExtractor(chunk_length=TURN_SAMPLES // MIC_SAMPLE_RATE_HZ)

    def probability(self, samples: Samples) -> float:
        recent = np.pad(samples, (0, TURN_SILENCE))[-TURN_SAMPLES:]
        recent = np.pad(recent, (TURN_SAMPLES - len(recent), 0))
        recent = (recent - recent.mean()) / np.sqrt(recent.var() + 1e-7)
        features: Features = self._features(recent, padding=0).astype(np.float32)
        # The output is called "logits" and is a probability.
        return float(self._model.run(None, {"input_features": features[None]})[0][0, 0])


class Moonshine:
    """Partial text, of English. Given all of the sound at each pass, so it remembers nothing between passes."""

    def __init__(self) -> None:
        self._model = Transcriber(
            model_path("moonshine-tiny-en"),
            ModelArch.TINY,
            # Its own detector of speech remembers the sound of the pass before; ours has decided already.
            options={"vad_threshold": "0.0", "return_audio_data": "false"},
        )

    def text(self, samples: Samples) -> str:
        lines = self._model.transcribe_without_streaming(samples.tolist()).lines
        # It likes to open with stray quotation marks.
        return " ".join(line.text.replace('"', "").strip(" '") for line in lines)


class EmbeddedRecognizer:
    def __init__(self, backend: "EmbeddedBackend", language: str) -> None:
        self._backend = backend
        self._language = language
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros(SILERO_CONTEXT, np.float32)

    def speech_probability(self, frame: Samples) -> float:
        if len(frame) != FRAME_SAMPLES:
            raise ValueError(f"A frame of {len(frame)} samples: give {FRAME_SAMPLES}.")
        inputs = {
            "input": np.concatenate([self._context, frame])[None],
            "state": self._state,
            "sr": np.array(MIC_SAMPLE_RATE_HZ),
        }
        probability, self._state = self._backend.silero.run(None, inputs)
        self._context = frame[-SILERO_CONTEXT:]
        return float(probability[0, 0])

    def partial_text(self, samples: Samples) -> str:
        return self._backend.moonshine.text(samples) if self._language == "en" else ""

    def final_text(self, samples: Samples) -> str:
        return self._backend.whisper.text(samples, self._language)

    def end_of_turn_probability(self, samples: Samples) -> float:
        return self._backend.smart_turn.probability(samples)


class EmbeddedBackend:
    def __init__(self, whisper: str, threads: int) -> None:
        self.silero = onnx_session("silero-vad")
        self.smart_turn = SmartTurn()
        self.moonshine = Moonshine()
        self.whisper = Whisper(whisper, threads)
        self.languages: Sequence[str] = self.whisper.languages

    def open(self, language: str) -> EmbeddedRecognizer:
        return EmbeddedRecognizer(self, language)


def onnx_session(model: str) -> onnxruntime.InferenceSession:
    """One thread: these models are small, and two sessions' frames must not wait for each other."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(model_path(model)), options, providers=["CPUExecutionProvider"]
    )


def load(settings: Settings) -> EmbeddedBackend:
    if settings.profile not in WHISPER:
        raise ValueError(f"VISAVIS_PROFILE={settings.profile}: choose one of {', '.join(WHISPER)}.")
    backend = EmbeddedBackend(WHISPER[settings.profile], settings.threads)
    warm = backend.open("en")
    silence = np.zeros(MIC_SAMPLE_RATE_HZ, np.float32)
    warm.speech_probability(silence[:FRAME_SAMPLES])
    warm.end_of_turn_probability(silence)
    warm.partial_text(silence)
    warm.final_text(silence)
    return backend
