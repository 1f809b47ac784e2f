"""The gateway's numbers: calls, turns, and how long a turn takes."""

from collections import deque

from prometheus_client import Counter, Gauge, Histogram

from visavis.metrics import LATENCY_BUCKETS_SECONDS, percentile

active_sessions = Gauge("visavis_gateway_active_sessions", "Calls that are on")
sessions = Counter(
    "visavis_gateway_sessions_total", "Calls, by how they ended or were refused", ["outcome"]
)
replies = Counter("visavis_gateway_replies_total", "Replies, by how they ended", ["reason"])
pauses = Counter(
    "visavis_gateway_pauses_total",
    "Speech over the agent, by what it turned out to be",
    ["outcome"],
)
video_dropped = Counter(
    "visavis_gateway_video_frames_dropped_total",
    "Pictures not sent because the client's connection was slow",
)
_latency = Histogram(
    "visavis_gateway_turn_latency_seconds",
    "From the user's last voiced sample to each point of the turn",
    ["point"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
_recent_ms: dict[str, deque[float]] = {}


def observe_turn(timings_ms: dict[str, float]) -> None:
    """Takes one turn's times, for Prometheus and for the status page."""
    for point, elapsed_ms in timings_ms.items():
        _latency.labels(point).observe(max(0.0, elapsed_ms) / 1000)
        _recent_ms.setdefault(point, deque(maxlen=256)).append(elapsed_ms)


def recent_latencies_ms() -> dict[str, dict[str, float]]:
    """p50 and p95 of each point over the last 256 turns."""
    return {
        point: {
            "p50": percentile(list(values), 50),
            "p95": percentile(list(values), 95),
            "count": len(values),
        }
        for point, values in _recent_ms.items()
    }
