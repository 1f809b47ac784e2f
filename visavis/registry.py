"""Who serves what: every worker writes a heartbeat to Redis, the gateway picks from those that are fresh."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import redis.asyncio as redis
from redis.exceptions import RedisError

from visavis.clock import Clock

logger = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_MS = 1_000
HEARTBEAT_TTL_MS = 3_000


@dataclass(frozen=True)
class Heartbeat:
    """What one worker says about itself, once a second."""

    service: str
    worker_id: str
    address: str  # host:port of its gRPC server
    backend: str
    slots: int
    used: int
    p95_ms: float  # time to first output
    # What the gateway must know before it sends work, such as a voice's sample rate.
    detail: dict[str, str] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.slots - self.used


def _key(service: str, worker_id: str) -> str:
    return f"worker:{service}:{worker_id}"


async def announce(client: "redis.Redis", clock: Clock, heartbeat: Callable[[], Heartbeat]) -> None:
    """Writes heartbeats until cancelled; then removes the last one."""
    beat = heartbeat()
    key = _key(beat.service, beat.worker_id)
    try:
        while True:
            try:
                await client.set(key, json.dumps(asdict(heartbeat())), px=HEARTBEAT_TTL_MS)
            except (RedisError, OSError) as error:
                logger.warning("heartbeat not written: %s", error)
            await clock.sleep_ms(HEARTBEAT_INTERVAL_MS)
    finally:
        await _withdraw(client, beat)


async def _withdraw(client: "redis.Redis", beat: Heartbeat) -> None:
    """Takes a worker off the list; if Redis is gone, the heartbeat expires by itself."""
    try:
        await client.delete(_key(beat.service, beat.worker_id))
    except (RedisError, OSError) as error:
        logger.warning("heartbeat not withdrawn: %s", error)


async def workers(client: "redis.Redis", service: str) -> list[Heartbeat]:
    """The workers of a service that are alive, those with most room first.

    Raises:
        redis.exceptions.RedisError, OSError: Redis cannot be reached.
    """
    keys = [key async for key in client.scan_iter(match=_key(service, "*"), count=200)]
    values = await client.mget(keys) if keys else []
    beats = [Heartbeat(**json.loads(value)) for value in values if value]
    return sorted(beats, key=lambda beat: (beat.used / beat.slots, beat.worker_id))
