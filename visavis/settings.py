"""What every process can be told by environment variables."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SharedSettings(BaseSettings):
    """Variables without a service's prefix."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True)

    redis_url: str = Field("redis://127.0.0.1:6379/0", validation_alias="REDIS_URL")
    log_level: str = Field("INFO", validation_alias="LOG_LEVEL")
    profile: str = Field("standard", validation_alias="VISAVIS_PROFILE")


class WorkerSettings(SharedSettings):
    """What the four stage services have in common; each adds its own prefix (ASR_, LLM_ …)."""

    backend: str = "embedded"
    # Where the gateway dials this worker. Port 0: any free one.
    host: str = "127.0.0.1"
    port: int = 0
    # The name under which other machines reach it; empty: `host`, or this machine's name if that is 0.0.0.0.
    advertise_host: str = ""
    # Prometheus; 0: any free port, logged at start.
    metrics_port: int = 0
    # Sessions served at once.
    slots: int = Field(4, ge=1)
    drain_seconds: float = Field(20, ge=0)
