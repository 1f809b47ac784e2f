"""How soon the mind speaks, how fast, and how soon it stops.

    python -m tests.bench.llm [--profile standard|small] [--threads N] [--slots N] [--turns N]

A conversation with a persona of about 200 tokens and six messages is continued `turns` times:

* cold: nothing of the prompt is in the cache
* turn: the conversation so far is, with the last reply as it was written; the user's new message is not
* partial: as turn, after a Warm with the first two thirds of the user's words
* warmed: after a Warm with the very messages of the Generate

The last line is one JSON object.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Sequence

from services.llm.backend import Backend, Message, load_backend
from services.llm.settings import Settings
from visavis.metrics import percentile

PERSONA = (
    "You are Theo, a warm and curious man in your thirties. You grew up in Duluth, on the shore of Lake "
    "Superior, over your parents' bicycle shop, and you still take things apart to see how they work. You "
    "studied geography, drew maps for a hiking guide for some years, and now you restore old radios in a small "
    "workshop behind your house. You live with Biscuit, an elderly beagle who snores, and you are slowly "
    "learning the cello, badly and happily. You like long walks, diners, thunderstorms, and other people's "
    "stories. You listen closely, ask one good question at a time, and you laugh easily. You are in a video "
    "call, so you speak: short, plain sentences, usually one to three. Never use lists, markdown, emojis or "
    "stage directions. If you do not know something, say so."
)
HISTORY = [
    Message("user", "Hi Theo, how are you today?"),
    Message("agent", "I'm good, thanks! Biscuit and I just came back from a walk. How about you?"),
    Message("user", "Pretty tired. I had a long day at work and the trains were late again."),
    Message("agent", "Oh no, that sounds exhausting. Did you at least get a seat?"),
    Message("user", "No, I had to stand for an hour next to a man eating garlic."),
    Message(
        "agent", "Ha, poor you. I think you have earned a quiet evening and something nice to eat."
    ),
]
QUESTIONS = [
    "So what would you cook if you were me, with only eggs and rice at home?",
    "Sounds good. And what do you like to listen to while you are cooking?",
    "I never learned an instrument. Do you think it is too late to start now?",
    "Tell me about the last radio that you repaired in your workshop.",
    "Where would you go if you had a week off and no plans at all?",
]
MAX_TOKENS = 60
Figures = dict[str, list[float]]
NOBODY = [Message("system", "This conversation is about something else entirely.")]


class Reply:
    """One generation, with its times in ms from the call."""

    def __init__(self, backend: Backend, messages: Sequence[Message], stop_after: int = 0) -> None:
        self.text = ""
        self.times_ms: list[float] = []
        self.stopped_ms = 0.0
        stop = threading.Event()
        started = time.perf_counter()

        def emit(delta: str) -> None:
            self.text += delta
            self.times_ms.append((time.perf_counter() - started) * 1000)
            if len(self.times_ms) == stop_after:
                stop.set()

        backend.generate(0, messages, MAX_TOKENS, emit, stop)
        self.total_ms = (time.perf_counter() - started) * 1000
        if stop_after and len(self.times_ms) >= stop_after:
            self.stopped_ms = self.total_ms - self.times_ms[stop_after - 1]

    @property
    def first_ms(self) -> float:
        return self.times_ms[0]

    @property
    def tokens_per_second(self) -> float:
        return (len(self.times_ms) - 1) * 1000 / max(0.001, self.times_ms[-1] - self.times_ms[0])


def converse(backend: Backend, turns: int, figures: Figures) -> list[list[Message]]:
    """Talks, as a call does: each reply stays in the cache. Returns the prompt of each turn."""
    messages = [Message("system", PERSONA), *HISTORY]
    backend.warm(0, messages, threading.Event())
    prompts = []
    for turn in range(turns):
        question = QUESTIONS[turn % len(QUESTIONS)]
        prompts.append([*messages, Message("user", question)])
        reply = Reply(backend, prompts[-1])
        figures["turn_first_token_ms"].append(reply.first_ms)
        figures["tokens_per_second"].append(reply.tokens_per_second)
        messages = [*prompts[-1], Message("agent", reply.text.strip() or "Hm.")]
        print(f"  {question}\n    {reply.text.strip()}")
    return prompts


def repeat(backend: Backend, asked: list[Message], figures: Figures) -> None:
    """The other ways to come to the same prompt."""

    def warm(*messages: Message) -> None:
        backend.warm(0, messages, threading.Event())

    history, words = asked[:-1], asked[-1].text.split()
    warm(*NOBODY)
    figures["cold_first_token_ms"].append(Reply(backend, asked, 1).first_ms)

    warm(*history, Message("user", "Hm."))
    warm(*history, Message("user", " ".join(words[: len(words) * 2 // 3])))
    figures["partial_first_token_ms"].append(Reply(backend, asked, 1).first_ms)

    warm(*asked)
    stopped = Reply(backend, asked, 5)
    figures["warmed_first_token_ms"].append(stopped.first_ms)
    figures["stop_in_reply_ms"].append(stopped.stopped_ms)
    figures["stop_in_prompt_ms"].append(stop_in_prompt(backend, asked))


def stop_in_prompt(backend: Backend, messages: Sequence[Message]) -> float:
    """From the stop, in the middle of reading a prompt, until the slot is free."""
    backend.warm(0, NOBODY, threading.Event())
    stop = threading.Event()
    warming = threading.Thread(target=backend.warm, args=(0, messages, stop))
    warming.start()
    time.sleep(0.3)
    started = time.perf_counter()
    stop.set()
    warming.join()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    started = time.perf_counter()
    settings = Settings(profile=options.profile, threads=options.threads, slots=options.slots)
    backend = load_backend(settings)
    load_s = time.perf_counter() - started
    names = (
        *("cold_first_token_ms", "turn_first_token_ms", "partial_first_token_ms"),
        *("warmed_first_token_ms", "tokens_per_second", "stop_in_reply_ms", "stop_in_prompt_ms"),
    )
    figures: Figures = {name: [] for name in names}
    print(f"{backend.model}, threads {options.threads or 'default'}, load {os.getloadavg()[0]:.1f}")
    for asked in converse(backend, options.turns, figures):
        repeat(backend, asked, figures)
    summary: dict[str, object] = {
        "bench": "llm",
        "model": backend.model,
        "threads": options.threads,
        "slots": options.slots,
        "load_s": round(load_s, 2),
        "machine_load": round(os.getloadavg()[0], 1),
    }
    for name, values in figures.items():
        p50, p95 = percentile(values, 50), percentile(values, 95)
        summary[name] = {"p50": round(p50, 1), "p95": round(p95, 1), "n": len(values)}
        print(f"{name:24} p50 {p50:8.1f}  p95 {p95:8.1f}  n {len(values)}")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
