"""The life of a stage's process: load, warm up, serve, drain. And the shell of one call inside it."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from prometheus_client import start_http_server

from visavis.clock import Clock, RealClock
from visavis.log import configure_logging, log_context
from visavis.metrics import stage_metrics
from visavis.registry import Heartbeat, announce
from visavis.settings import WorkerSettings
from visavis.streams import (
    StaleEpochError,
    StreamGapError,
    StreamLostError,
    Streams,
    TurnWriter,
)
from visavis.v1.common_pb2 import Finished, FirstOutput, Progress, Started, TurnRef, WorkEvent

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_MS = 200

# The gateway keeps a call open for minutes: let it ping, so that either side notices a dead peer.
GRPC_SERVER_OPTIONS = [
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
]


class UnknownNameError(LookupError):
    """A persona, voice or model that this worker does not have; the message says which and what there is."""


class EventMessage(Protocol):
    """TranscribeEvent, GenerateEvent, SynthesizeEvent or AnimateEvent."""

    def __init__(self, *, work: WorkEvent | None = ...) -> None: ...


E = TypeVar("E", bound=EventMessage)
M = TypeVar("M", bound=Message)


class Work(Generic[E]):
    """One call being served: tells the caller how it goes."""

    def __init__(
        self, worker: "Worker", context: "grpc.aio.ServicerContext[Any, E]", event_type: type[E]
    ) -> None:
        self._worker = worker
        self._context = context
        self._event_type = event_type
        self._input_at_ms: float | None = None
        self._last_progress_ms = 0.0

    async def started(self) -> None:
        await self._send(WorkEvent(started=Started(worker_id=self._worker.worker_id)))

    def input_read(self) -> None:
        """Starts the clock of `first_output`, once. Not for a stage that listens for a whole session."""
        if self._input_at_ms is None:
            self._input_at_ms = self._worker.clock.now_ms()

    async def wrote(self, seq: int) -> None:
        """Reports an output message: the first one at once, later ones at most every 200 ms."""
        now_ms = self._worker.clock.now_ms()
        if seq == 1:
            elapsed_ms = now_ms - (self._input_at_ms or now_ms)
            if self._input_at_ms is not None:
                self._worker.metrics.observe_latency(elapsed_ms)
            self._last_progress_ms = now_ms
            await self._send(WorkEvent(first_output=FirstOutput(elapsed_ms=elapsed_ms)))
        elif now_ms - self._last_progress_ms >= PROGRESS_INTERVAL_MS:
            self._last_progress_ms = now_ms
            await self._send(WorkEvent(progress=Progress(seq=seq)))

    async def finished(self, last_seq: int) -> None:
        await self._send(WorkEvent(finished=Finished(last_seq=last_seq)))

    async def _send(self, event: WorkEvent) -> None:
        await self._context.write(self._event_type(work=event))


class ReportingWriter(TurnWriter[M]):
    """A TurnWriter that reports each message to the caller as it goes out."""

    def __init__(self, streams: Streams, key: str, epoch: int, work: Work[Any]) -> None:
        super().__init__(streams, key, epoch)
        self._work = work

    async def write(self, message: M) -> None:
        await super().write(message)
        await self._work.wrote(self.seq)


class Worker:
    """What a servicer needs of its process: streams, clock, slots, metrics."""

    def __init__(
        self, service: str, settings: WorkerSettings, streams: Streams, clock: Clock | None = None
    ) -> None:
        self.service = service
        self.settings = settings
        self.streams = streams
        self.clock = clock or RealClock()
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}"
        self.metrics = stage_metrics(service)
        self.metrics.slots.set(settings.slots)
        self.detail: dict[str, str] = {}
        self.address = ""
        self.used = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(
            service=self.service,
            worker_id=self.worker_id,
            address=self.address,
            backend=self.settings.backend,
            slots=self.settings.slots,
            used=self.used,
            p95_ms=self.metrics.p95_ms,
            detail=self.detail,
        )

    @asynccontextmanager
    async def work(
        self,
        turn: TurnRef,
        context: "grpc.aio.ServicerContext[Any, E]",
        event_type: type[E],
    ) -> AsyncIterator[Work[E]]:
        """Holds a slot and maps what goes wrong to a gRPC status. Sends `started`.

        Cancellation passes through: the caller wanted it.
        """
        if self.draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{self.service} worker is draining")
        if self.used >= self.settings.slots:
            self.metrics.finished.labels("refused").inc()
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"all {self.settings.slots} slots are taken"
            )
        if not turn.session_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "turn.session_id is missing")
        self._take_slot()
        outcome = "failed"
        with log_context(session_id=turn.session_id, epoch=turn.epoch):
            try:
                work = Work(self, context, event_type)
                await work.started()
                yield work
                outcome = "finished"
            except asyncio.CancelledError:
                outcome = "cancelled"
                raise
            except BaseException as error:
                status, message = _status_of(error)
                outcome = status.name.lower()
                if status is grpc.StatusCode.INTERNAL:
                    logger.exception("work failed")
                await context.abort(status, message)
            finally:
                self.metrics.finished.labels(outcome).inc()
                self._give_slot()

    def _take_slot(self) -> None:
        self.used += 1
        self.metrics.active.set(self.used)
        self._idle.clear()

    def _give_slot(self) -> None:
        self.used -= 1
        self.metrics.active.set(self.used)
        if not self.used:
            self._idle.set()

    async def idle(self) -> None:
        """Returns when no call is being served."""
        await self._idle.wait()


_STATUS: list[tuple[type[BaseException], grpc.StatusCode]] = [
    (StaleEpochError, grpc.StatusCode.ABORTED),
    (StreamGapError, grpc.StatusCode.DATA_LOSS),
    (StreamLostError, grpc.StatusCode.UNAVAILABLE),
    (UnknownNameError, grpc.StatusCode.NOT_FOUND),
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),
]


def _status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status for an error; for a TaskGroup's, that of its first member."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    for error_type, status in _STATUS:
        if isinstance(error, error_type):
            return status, str(error)
    return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"


Registrar = Callable[[grpc.aio.Server, Worker], None]


async def serve(
    service: str,
    settings: WorkerSettings,
    register: Registrar,
    detail: dict[str, str],
    stop: asyncio.Event,
) -> None:
    """Serves a warm backend until `stop` is set, then drains: no new work, finish what runs, exit."""
    async with Streams(settings.redis_url) as streams:
        worker = Worker(service, settings, streams)
        worker.detail = detail
        server = grpc.aio.server(options=GRPC_SERVER_OPTIONS)
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        register(server, worker)
        port = server.add_insecure_port(f"{settings.host}:{settings.port}")
        worker.address = f"{_advertised_host(settings)}:{port}"
        await server.start()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        logger.info("ready on %s with backend %s", worker.address, settings.backend)
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(
                announce(streams.client, worker.clock, worker.heartbeat), name="heartbeat"
            )
            await stop.wait()
            beating.cancel()  # takes the worker off the list: nothing new comes
            await _drain(worker, server, health)


def _advertised_host(settings: WorkerSettings) -> str:
    """Where the gateway finds this worker. One that listens everywhere goes by its host's name."""
    if settings.advertise_host:
        return settings.advertise_host
    return socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host


async def _drain(
    worker: Worker, server: grpc.aio.Server, health: health_aio.HealthServicer
) -> None:
    worker.draining = True
    logger.info("draining %d calls", worker.used)
    await health.enter_graceful_shutdown()
    try:
        async with asyncio.timeout(worker.settings.drain_seconds):
            await worker.idle()
    except TimeoutError:
        logger.warning("%d calls cut off", worker.used)
    await server.stop(grace=0.5)


def run(
    service: str, settings: WorkerSettings, load: Callable[[], tuple[Registrar, dict[str, str]]]
) -> None:
    """Runs a stage's process: `load` returns, with its model warm, what to serve and what to announce."""
    configure_logging(service, settings.log_level)
    register, detail = load()
    metrics_server, _ = start_http_server(settings.metrics_port, addr=settings.host)
    logger.info("metrics on port %d", metrics_server.server_port)

    async def main() -> None:
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        await serve(service, settings, register, detail, stop)

    import uvloop

    uvloop.run(main())
