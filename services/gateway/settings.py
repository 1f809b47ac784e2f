"""What the gateway can be told."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.gateway.turns import TurnRules
from visavis.persona import DEFAULT_PERSONA_ID
from visavis.settings import SharedSettings


class Settings(SharedSettings):
    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", extra="ignore", populate_by_name=True, env_nested_delimiter="__"
    )

    host: str = "127.0.0.1"
    port: int = 8080
    persona_id: str = DEFAULT_PERSONA_ID
    # Calls at once; the stages' own slots limit it further.
    max_sessions: int = Field(8, ge=1)
    # A client that says nothing at all, not even sound, is gone.
    idle_timeout_seconds: float = 60
    speech_lead_ms: float = 1_500
    video_lead_ms: float = 600
    max_reply_tokens: int = 120
    # The SQLite file with the transcripts; empty: `transcripts.db` in VISAVIS_HOME.
    database: str = ""
    # The built web client; empty: services/gateway/web/dist.
    web_dir: str = ""
    turns: TurnRules = TurnRules()
