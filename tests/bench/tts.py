"""How soon and how fast each voice speaks.

    python -m tests.bench.tts [--backends piper,kokoro] [--threads N] [--repeats N]

Time to first sound is that of a whole first clause, since a clause is synthesized at once. RTF is the time of
synthesis over that of the sound. The last line is one JSON object.
"""

import argparse
import json
import os
import time

from services.tts.backend import Backend, load_backend
from services.tts.settings import Settings
from visavis.metrics import percentile
from visavis.models import ModelMissing

CLAUSES = {
    "word": ["Well,", "Sure!", "Really?", "Oh no,"],
    "first": [
        "That sounds like a lovely evening,",
        "I think so too,",
        "Hello there, my friend.",
        "Let me see:",
    ],
    "sentence": [
        "I just came back from a long walk along the river with my dog.",
        "When I was a child we used to take the early train to the lake.",
        "Do you think it will rain tomorrow, or shall we go to the beach instead?",
    ],
}
VOICES_AT_MOST = 3


def measure(backend: Backend, voice: str, repeats: int) -> dict[str, object]:
    figures: dict[str, object] = {}
    for kind, texts in CLAUSES.items():
        elapsed_ms, rtf = [], []
        for text in texts * repeats:
            started = time.perf_counter()
            utterance = backend.synthesize(text, voice)
            elapsed_ms.append((time.perf_counter() - started) * 1000)
            rtf.append(elapsed_ms[-1] / (len(utterance.pcm) / 2 / backend.sample_rate_hz * 1000))
        figures[kind] = {
            "p50_ms": round(percentile(elapsed_ms, 50), 1),
            "p95_ms": round(percentile(elapsed_ms, 95), 1),
            "rtf_p50": round(percentile(rtf, 50), 3),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", default="piper,kokoro")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    summary: dict[str, object] = {
        "bench": "tts",
        "threads": options.threads,
        "machine_load": round(os.getloadavg()[0], 1),
    }
    for name in options.backends.split(","):
        started = time.perf_counter()
        try:
            backend = load_backend(Settings(backend=name, threads=options.threads))
        except ModelMissing as missing:
            print(f"{name}: {missing}")
            continue
        print(f"{name}: loaded in {time.perf_counter() - started:.1f} s")
        for voice in backend.voices[:VOICES_AT_MOST]:
            figures = measure(backend, voice, options.repeats)
            summary[f"{name}/{voice}"] = figures
            for kind, figure in figures.items():
                print(f"  {voice:12} {kind:10} {figure}")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
