"""What the showing service can be told."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from visavis.persona import DEFAULT_PERSONA_ID
from visavis.settings import WorkerSettings


class Settings(WorkerSettings):
    model_config = SettingsConfigDict(
        env_prefix="TALKINGHEAD_", extra="ignore", populate_by_name=True
    )

    backend: str = "viseme"
    # Measured with viseme, H.264 and 512 px (tests/bench/talkinghead.py): eight take less than half a core.
    slots: int = Field(8, ge=1)
    # Encoders that run at once; rendering has one thread besides.
    threads: int = Field(2, ge=1)
    # Loaded at start, so that the first call does not wait for it; empty: none.
    warm_persona: str = DEFAULT_PERSONA_ID
    # Faces kept in memory, about 100 MB each; those that speak now come on top.
    faces: int = Field(8, ge=1)
    # Delay of the fake backend, for each batch.
    fake_delay_ms: float = 0
