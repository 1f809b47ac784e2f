"""The metrics that all stages share, under one shape: visavis_<service>_<what>_<unit>."""

from collections import deque
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

LATENCY_BUCKETS_SECONDS = (
    0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0,
)  # fmt: skip

streams_messages_written = Counter(
    "visavis_streams_messages_written_total", "Messages written to Redis streams", ["stream"]
)
streams_gaps = Counter(
    "visavis_streams_gaps_total",
    "Messages that were trimmed before they were read (a blown fuse)",
    ["stream"],
)
streams_stale_writes = Counter(
    "visavis_streams_stale_writes_total",
    "Writes that Redis refused because a newer epoch had begun",
    ["stream"],
)


class StageMetrics:
    """One stage's numbers, for Prometheus and for the heartbeat. Get it from `stage_metrics`."""

    def __init__(self, service: str) -> None:
        self.slots = Gauge(
            f"visavis_{service}_slots_sessions", "Sessions this worker serves at most"
        )
        self.active = Gauge(f"visavis_{service}_active_sessions", "Sessions being served now")
        self.finished = Counter(
            f"visavis_{service}_work_total", "Calls that ended, by outcome", ["outcome"]
        )
        self._latency = Histogram(
            f"visavis_{service}_time_to_first_output_seconds",
            "First input read until first output written (asr: end of speech until final transcript)",
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        self._recent_ms: deque[float] = deque(maxlen=256)

    def observe_latency(self, elapsed_ms: float) -> None:
        self._latency.observe(elapsed_ms / 1000)
        self._recent_ms.append(elapsed_ms)

    @property
    def p95_ms(self) -> float:
        """p95 of the time to first output over the last 256 calls; 0 before the first."""
        return percentile(list(self._recent_ms), 95)


@cache
def stage_metrics(service: str) -> StageMetrics:
    """One per service and process: Prometheus refuses to register a name twice."""
    return StageMetrics(service)


def percentile(values: list[float], percent: float) -> float:
    """Nearest-rank percentile; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
