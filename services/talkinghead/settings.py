"""What the showing service can be told."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from visavis.settings import WorkerSettings


class Settings(WorkerSettings):
    model_config = SettingsConfigDict(
        env_prefix="TALKINGHEAD_", extra="ignore", populate_by_name=True
    )

    backend: str = "viseme"
    # Encoders that run at once; rendering has one thread besides.
    threads: int = Field(2, ge=1)
    # Loaded at start, so that the first call does not wait for it; empty: none.
    warm_persona: str = "theo"
    # Delay of the fake backend, for each batch.
    fake_delay_ms: float = 0
