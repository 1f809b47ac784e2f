"""What the speaking service can be told."""

from pydantic_settings import SettingsConfigDict

from visavis.settings import WorkerSettings


class Settings(WorkerSettings):
    model_config = SettingsConfigDict(env_prefix="TTS_", extra="ignore", populate_by_name=True)

    backend: str = "piper"
    threads: int = 2
    # Delays of the fake backend.
    fake_delay_ms: float = 0
