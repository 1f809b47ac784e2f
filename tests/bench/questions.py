"""Spoken questions for the benchmarks: made with the embedded voices, so that no recording is needed."""

from pathlib import Path

from services.tts.backend import load_backend
from services.tts.settings import Settings
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples, pcm_to_samples, read_wav, resample

QUESTIONS = (
    "What is the capital of France?",
    "Can you tell me something about the moon?",
    "What do you like to do on a rainy day?",
    "How does a bicycle stay upright?",
    "What should I cook for dinner tonight?",
    "Where did you grow up?",
    "Why is the sky blue during the day?",
    "Do you have any pets at home?",
    "Which book would you take to an island?",
    "How do people learn a new language?",
    "What is the best way to fall asleep?",
    "Can you recommend a good film for tonight?",
)


def spoken_questions(folder: Path | None, limit: int) -> list[Samples]:
    """16 kHz samples: the wavs of a folder, else `QUESTIONS` spoken by Piper's voice."""
    if folder is not None:
        recordings = [read_wav(path) for path in sorted(folder.glob("*.wav"))[:limit]]
        return [resample(samples, rate, MIC_SAMPLE_RATE_HZ) for samples, rate in recordings]
    backend = load_backend(Settings(backend="piper"))
    spoken = [backend.synthesize(text, backend.voices[0]) for text in QUESTIONS[:limit]]
    return [
        resample(pcm_to_samples(u.pcm), backend.sample_rate_hz, MIC_SAMPLE_RATE_HZ) for u in spoken
    ]
