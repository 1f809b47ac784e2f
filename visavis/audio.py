"""Sound as the services exchange it: mono PCM16 on the wire, float32 in [-1, 1] for models."""

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import soxr
from numpy.typing import NDArray

MIC_SAMPLE_RATE_HZ = 16_000
MIC_CHUNK_MS = 20

Samples = NDArray[np.float32]  # [n], mono


def pcm_to_samples(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)


def samples_to_pcm(samples: Samples) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def duration_ms(pcm: bytes | bytearray, sample_rate_hz: int) -> float:
    return len(pcm) / 2 / sample_rate_hz * 1000


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    if from_hz == to_hz:
        return samples
    return cast(Samples, soxr.resample(samples, from_hz, to_hz).astype(np.float32))


def blocks(pcm: bytes, sample_rate_hz: int, block_ms: float) -> Iterator[bytes]:
    """Cuts sound into blocks of `block_ms`; the last may be shorter."""
    size = int(sample_rate_hz * block_ms / 1000) * 2
    for start in range(0, len(pcm), size):
        yield pcm[start : start + size]


def read_wav(path: Path) -> tuple[Samples, int]:
    """Reads a PCM16 wav; channels are averaged. Returns samples [n] and the rate in Hz.

    Raises:
        ValueError: not a wav, or not 16 bit PCM; the message says what to do.
    """
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2:
                raise ValueError(
                    f"{path}: {8 * file.getsampwidth()} bit sound. Convert it to 16 bit PCM."
                )
            samples = pcm_to_samples(file.readframes(file.getnframes()))
            channels, rate_hz = file.getnchannels(), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: not a readable wav file ({error}). Give a PCM16 wav.") from None
    return samples.reshape(-1, channels).mean(axis=1).astype(np.float32), rate_hz


def write_wav(path: Path, samples: Samples, sample_rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(samples_to_pcm(samples))
