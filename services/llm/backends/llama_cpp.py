"""A GGUF chat model in this process, through xllamacpp (llama.cpp's server without its HTTP in between).

* The prompt is built as token ids from ChatML: text can never pass for a mark of the model, the length is
  exact, and the same conversation gives the same ids, so that it is found in the cache.
* A slot keeps what it has read. What a turn adds is read; what was said before costs nothing. After a
  `warm` with the same messages, only one token is left to compute.
* When old turns fall out of the context, the cache of the rest is moved, not read again (n_cache_reuse).
* A batch of the prompt is BATCH_TOKENS long: so soon is a stop obeyed, and so long do the other sessions'
  tokens wait at most.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import xllamacpp

from services.llm.backend import Message
from services.llm.history import fit
from services.llm.settings import Settings
from visavis.models import model_path
from visavis.persona import load_persona

logger = logging.getLogger(__name__)

BATCH_TOKENS = 32
CACHE_REUSE_TOKENS = 32  # the shortest stretch worth moving
# Where a small model slips into writing both sides, or into what cannot be spoken.
STOP = ["\nUser:", "\nuser:", "\nHuman:", "\nYou:", "<|im_", "```"]

OPEN = "<|im_start|>{role}\n"
CLOSE = "<|im_end|>\n"
ROLE_NAMES = {"system": "system", "user": "user", "agent": "assistant"}


@dataclass(frozen=True)
class Sampling:
    temperature: float
    repeat_penalty: float
    top_p: float = 0.9
    min_p: float = 0.05


@dataclass(frozen=True)
class Choice:
    model: str
    sampling: Sampling


PROFILES = {
    "standard": Choice("qwen2.5-coder-1.5b-instruct", Sampling(0.7, 1.05)),
    # 135 M parameters ramble unless they are held short.
    "small": Choice("smollm2-135m-instruct", Sampling(0.2, 1.15)),
}


class LlamaCppBackend:
    def __init__(self, path: Path, sampling: Sampling, settings: Settings) -> None:
        self.model = path.stem
        self.max_tokens = settings.max_tokens
        self._sampling = sampling
        self._context_tokens = settings.context_tokens
        # Tokenizing has no call of its own in xllamacpp; its loopback HTTP is locked with a random key.
        key = secrets.token_hex(16)
        self._server = xllamacpp.Server(parameters(path, key, settings))
        self._http = httpx.Client(
            base_url=self._server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,  # no proxy for loopback
            limits=httpx.Limits(max_keepalive_connections=0),  # nothing to close at the end
            timeout=30,
        )
        self._tokens_of = lru_cache(maxsize=4096)(self._tokenize)
        self._check_template()
        # Tokens of prompts that were not in the cache, over all slots: what the cache spares shows here.
        self.tokens_read = 0

    def generate(
        self,
        slot: int,
        messages: Sequence[Message],
        max_tokens: int,
        emit: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._complete(slot, self._prompt(messages, max_tokens), max_tokens, emit, stop)

    def warm(self, slot: int, messages: Sequence[Message], stop: threading.Event) -> int:
        prompt = self._prompt(messages, self.max_tokens)
        self._complete(slot, prompt, 0, lambda _: None, stop)
        return len(prompt)

    def _complete(
        self,
        slot: int,
        prompt: list[int],
        max_tokens: int,
        emit: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        errors: list[str] = []

        def take(chunk: dict[str, Any]) -> bool:
            """Called per batch of the prompt and per token; returning True stops the model."""
            self.tokens_read += chunk.get("timings", {}).get("prompt_n", 0)
            if "error" in chunk:
                errors.append(str(chunk["error"]))
            elif not stop.is_set():
                for choice in chunk.get("choices", ()):
                    if choice["text"] and max_tokens:
                        emit(choice["text"])
            return stop.is_set()

        self._server.handle_completions(
            {
                "prompt": prompt,
                "id_slot": slot,
                "n_predict": max_tokens,
                "stream": True,
                "return_progress": True,
                "cache_prompt": True,
                "stop": STOP,
                **asdict(self._sampling),
            },
            take,
        )
        if errors:
            raise RuntimeError(f"llama.cpp: {errors[0]}")

    def _prompt(self, messages: Sequence[Message], max_tokens: int) -> list[int]:
        """The token ids of the newest messages that fit, up to where the reply begins."""
        reply = self._tokens_of(OPEN.format(role=ROLE_NAMES["agent"]), True)
        budget = self._context_tokens - max_tokens - len(reply)
        kept = fit(messages, budget, lambda message: len(self._message_tokens(message)))
        return [token for m in kept for token in self._message_tokens(m)] + list(reply)

    def _message_tokens(self, message: Message) -> tuple[int, ...]:
        return (
            *self._tokens_of(OPEN.format(role=ROLE_NAMES[message.role]), True),
            *self._tokens_of(message.text, False),
            *self._tokens_of(CLOSE, True),
        )

    def _tokenize(self, text: str, has_marks: bool) -> tuple[int, ...]:
        body = {"content": text, "add_special": False, "parse_special": has_marks}
        answer = self._http.post("/tokenize", json=body).raise_for_status()
        return tuple(answer.json()["tokens"])

    def _check_template(self) -> None:
        """Raises ValueError when the model's own template is not the ChatML that this file writes."""
        messages = [
            Message("system", "A"),
            Message("user", "B"),
            Message("agent", "C"),
            Message("user", "D"),
        ]
        body = [{"role": ROLE_NAMES[m.role], "content": m.text} for m in messages]
        answer = self._http.post("/apply-template", json={"messages": body}).raise_for_status()
        if list(self._tokenize(answer.json()["prompt"], True)) != self._prompt(messages, 1):
            raise ValueError(f"LLM_MODEL={self.model}: not a ChatML model.")


def parameters(path: Path, key: str, settings: Settings) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = settings.slots
    params.n_ctx = settings.context_tokens * settings.slots
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_cache_reuse = CACHE_REUSE_TOKENS
    threads = settings.threads or min(4, max(1, (os.cpu_count() or 2) // 2))
    params.cpuparams.n_threads = threads
    read_threads = settings.read_threads or (2 * threads if settings.slots == 1 else threads)
    params.cpuparams_batch.n_threads = read_threads
    params.cache_ram_mib = 0  # slots are sticky: no second copy of their caches
    params.cache_idle_slots = False
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.verbosity = 0
    return params


def load(settings: Settings) -> LlamaCppBackend:
    choice = PROFILES[settings.profile]
    path = Path(settings.model) if settings.model.endswith(".gguf") else None
    backend = LlamaCppBackend(
        path or model_path(settings.model or choice.model), choice.sampling, settings
    )
    for slot in range(settings.slots):
        backend.warm(slot, _first_prompt(settings.warm_persona), threading.Event())
    logger.info("loaded %s", backend.model)
    return backend


def _first_prompt(persona_id: str) -> list[Message]:
    """What a call with this persona begins with: read now, it need not be read when somebody calls."""
    if not persona_id:
        return [Message("user", "Hello.")]
    return [Message("system", load_persona(persona_id).system_prompt)]
