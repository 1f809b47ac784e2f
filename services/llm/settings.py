"""What the thinking service can be told."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from visavis.persona import DEFAULT_PERSONA_ID
from visavis.settings import WorkerSettings


class Settings(WorkerSettings):
    model_config = SettingsConfigDict(env_prefix="LLM_", extra="ignore", populate_by_name=True)

    backend: str = "llama_cpp"
    # Two conversations at once get half the speed each (10 tokens a second on 2 cores: people speak 4).
    slots: int = Field(2, ge=1)
    # Whose prompt every slot has read before the first call; empty: nobody's.
    warm_persona: str = DEFAULT_PERSONA_ID
    # A .gguf file, or a model of the store; empty: the one of the profile.
    model: str = ""
    # That write the reply; 0: half of the processors, at most 4. llama.cpp's threads wait for each other by
    # spinning: when another process takes the processor of one, all stand still. Measured on 2 processors, one
    # of them busy elsewhere (Qwen 1.5B): 1 thread writes 14-24 tokens a second, 2 threads write 2.
    threads: int = Field(0, ge=0)
    # That read prompts; 0: twice as many if there is one slot (85 instead of 47 tokens a second on an idle
    # machine), else as many: where several sessions write at once, these do it.
    read_threads: int = Field(0, ge=0)
    # Prompt and reply of one session together. Each session holds this much memory (Qwen 1.5B: 56 MiB per 2048).
    context_tokens: int = Field(2048, ge=256)
    # Of one reply, where the request does not say.
    max_tokens: int = Field(120, ge=1)
    # Delays of the fake backend: until the first token, and between tokens.
    fake_delay_ms: float = 0
    fake_token_ms: float = 0
