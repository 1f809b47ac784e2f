"""What the listening service can be told."""

from pydantic_settings import SettingsConfigDict

from visavis.settings import WorkerSettings


class Settings(WorkerSettings):
    model_config = SettingsConfigDict(env_prefix="ASR_", extra="ignore", populate_by_name=True)

    backend: str = "embedded"
    # Of the final pass. Everything else runs on one thread each.
    threads: int = 2

    # When is someone speaking? The detector judges frames of 32 ms.
    # Speech starts when frames are above `start_probability` for `start_ms`; a click is one frame.
    start_probability: float = 0.5
    start_ms: float = 64
    # A frame below this is not voiced. Lower than `start_probability`, so that soft endings count as speech.
    stop_probability: float = 0.35
    # After this much silence the final pass starts, on the chance that the pause is real. Sooner: an earlier
    # final, more passes thrown away in the gaps between words.
    pausing_ms: float = 96
    # After this much silence the pause is real and is told. Six frames.
    stop_ms: float = 192
    # Sound kept from before the start of speech: soft consonants come before the detector is sure.
    preroll_ms: float = 300

    # New sound between two partials; each costs one pass of the partial model.
    partial_interval_ms: float = 400
    # A partial reads at most this much sound; the text of what lies before is kept.
    partial_window_ms: float = 8_000

    # A turn's sound beyond this is settled: decoded once, its text kept as the turn's fixed beginning.
    turn_window_ms: float = 28_000  # Whisper's window is 30 s
    # While settling lags behind, hearing goes on up to this much sound; then the microphone waits in Redis.
    turn_limit_ms: float = 40_000
    # A silence this long settles the turn's text too: the next final need not decode it again.
    settle_silence_ms: float = 3_000

    # Delay of the fake backend's final pass.
    fake_delay_ms: float = 0
