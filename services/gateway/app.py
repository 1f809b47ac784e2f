"""The gateway's routes: the call's WebSocket, REST for personas and transcripts, health, status, the web client."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, HTTPException, Response, WebSocket
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocketDisconnect

from services.gateway import metrics, protocol
from services.gateway.clients import SERVICES, Channels, StageError, Stages
from services.gateway.history import History
from services.gateway.reply import CallContext
from services.gateway.session import CallSession
from services.gateway.settings import Settings
from services.gateway.store import Store, open_store
from services.gateway.websocket import NORMAL_CLOSURE, Outbox, incoming
from visavis import registry
from visavis.audio import MIC_SAMPLE_RATE_HZ
from visavis.clock import Clock, RealClock
from visavis.log import log_context
from visavis.models import store_dir
from visavis.persona import (
    Persona,
    PersonaError,
    UnknownPersonaError,
    load_persona,
    persona_dir,
    persona_ids,
)
from visavis.registry import Heartbeat
from visavis.streams import StreamError, Streams
from visavis.v1.talkinghead_pb2 import VideoCodec
from visavis.v1.talkinghead_pb2 import VideoFormat as ProtoVideoFormat

logger = logging.getLogger(__name__)

WEB_DIR = Path(__file__).parent / "web" / "dist"
START_TIMEOUT_SECONDS = 10
RETRY_AFTER_FULL_MS = 15_000
RETRY_AFTER_FAILURE_MS = 2_000
CodecName = Literal["h264", "vp8", "jpeg"]
# For each: as the talking head knows it, as WebCodecs does.
CODECS: dict[CodecName, tuple[VideoCodec.ValueType, str]] = {
    "h264": (VideoCodec.VIDEO_CODEC_H264, "avc1.42E01F"),
    "vp8": (VideoCodec.VIDEO_CODEC_VP8, "vp8"),
    "jpeg": (VideoCodec.VIDEO_CODEC_JPEG, ""),
}
# The only files of a persona that the world may read.
FACE_FILES = {"idle.mp4": "video/mp4", "idle.webm": "video/webm", "poster.jpg": "image/jpeg"}
VIOLATION_CLOSURE, ERROR_CLOSURE, BUSY_CLOSURE = 1008, 1011, 1013


class Refusal(Exception):
    """The call cannot begin."""

    def __init__(self, code: str, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.event = protocol.ErrorEvent.model_validate(
            {"code": code, "message": message, "fatal": True, "retry_after_ms": retry_after_ms}
        )


class Gateway:
    """What the routes share."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.started_at = time.time()
        self.streams: Streams
        self.channels: Channels
        self.store: Store
        self._calls: dict[str, asyncio.Task[None]] = {}

    @property
    def sessions(self) -> int:
        return len(self._calls)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            database = self.settings.database or store_dir() / "transcripts.db"
            self.store = await stack.enter_async_context(open_store(Path(database)))
            self.streams = await stack.enter_async_context(Streams(self.settings.redis_url))
            self.channels = await stack.enter_async_context(Channels())
            yield

    # --- one call --------------------------------------------------------------------------------

    async def serve_call(self, websocket: WebSocket) -> None:
        """Runs one connection from its first event to its close. Every error becomes an event."""
        await websocket.accept()
        outbox = Outbox(websocket)
        try:
            start = await self._first_event(websocket)
            await self._run_call(websocket, outbox, start)
            code = NORMAL_CLOSURE
        except WebSocketDisconnect:
            return
        except Refusal as refusal:
            metrics.sessions.labels(refusal.event.code).inc()
            outbox.send(refusal.event)
            code = BUSY_CLOSURE
        except BaseExceptionGroup as group:
            code = self._explain(outbox, _first(group))
        except (protocol.ProtocolError, StageError, StreamError) as error:
            code = self._explain(outbox, error)
        try:
            await outbox.drain()
            await websocket.close(code)
        except (WebSocketDisconnect, RuntimeError):
            pass  # it closed first

    def _explain(self, outbox: Outbox, error: BaseException) -> int:
        """Queues the error in words for the user; returns the close code."""
        match error:
            case WebSocketDisconnect():
                metrics.sessions.labels("ended").inc()
                return NORMAL_CLOSURE
            case asyncio.CancelledError():
                raise error
            case protocol.ProtocolError():
                code, message, closure = "bad_message", str(error), VIOLATION_CLOSURE
            case StageError():
                code, message, closure = "stage_unavailable", str(error), ERROR_CLOSURE
            case StreamError():
                code, closure = "stage_unavailable", ERROR_CLOSURE
                message = "The server has lost its message store (Redis). Please call again."
            case _:
                logger.error("call failed", exc_info=error)
                code, closure = "internal", ERROR_CLOSURE
                message = "Something broke on the server. Please call again."
        logger.warning("call ended by %s: %s", code, error)
        metrics.sessions.labels(code).inc()
        outbox.send(
            protocol.ErrorEvent.model_validate({"code": code, "message": message, "fatal": True})
        )
        return closure

    async def _first_event(self, websocket: WebSocket) -> protocol.SessionStart:
        async for item in incoming(websocket, START_TIMEOUT_SECONDS):
            if not isinstance(item, protocol.SessionStart):
                raise protocol.ProtocolError("The first event must be session.start.")
            return item
        raise WebSocketDisconnect(NORMAL_CLOSURE, "no session.start")

    async def _run_call(
        self, websocket: WebSocket, outbox: Outbox, start: protocol.SessionStart
    ) -> None:
        persona = self._check(start)
        stages = Stages(self.streams, self.channels)
        voice = await self._admit(stages)
        session_id, resumed = await self._session_id(start, outbox, persona)
        call = CallContext(
            session_id=session_id,
            persona=persona,
            settings=self.settings,
            streams=self.streams,
            stages=stages,
            clock=self.clock,
            outbox=outbox,
            sample_rate_hz=int(voice.detail["sample_rate_hz"]),
            voice=persona.voices.get(voice.backend, ""),
            video=_video_format(start, persona),
        )
        history = History(await self.store.turns(session_id))
        # Seconds since 1970 grow faster than turns, so that a resumed call's epochs are newer than all before.
        session = CallSession(call, history, self.store, first_epoch=int(time.time()))
        outbox.send(_session_started(call, resumed))
        with log_context(session_id=session_id), self._counted(session_id):
            logger.info("call begins with %s", persona.id)
            await session.run(incoming(websocket, self.settings.idle_timeout_seconds))
            logger.info("call ends")
        metrics.sessions.labels("ended").inc()

    def _check(self, start: protocol.SessionStart) -> Persona:
        if start.protocol != protocol.PROTOCOL_VERSION:
            raise Refusal(
                "unsupported",
                f"This server speaks protocol {protocol.PROTOCOL_VERSION}, the page {start.protocol}. Reload it.",
            )
        if start.mic.sample_rate_hz != MIC_SAMPLE_RATE_HZ:
            raise Refusal(
                "unsupported",
                f"The microphone must be sent at {MIC_SAMPLE_RATE_HZ} Hz, not {start.mic.sample_rate_hz} Hz.",
            )
        try:
            return load_persona(start.persona_id or self.settings.persona_id)
        except (UnknownPersonaError, PersonaError) as error:
            raise Refusal("unknown_persona", str(error)) from None

    async def _admit(self, stages: Stages) -> Heartbeat:
        """Sees that every stage has room for one more call; returns the voice's worker."""
        try:
            capacity = min(self.settings.max_sessions, await stages.capacity())
            if self.sessions >= capacity:
                raise Refusal(
                    "server_full",
                    "All lines are taken at the moment. Please try again in a little while.",
                    RETRY_AFTER_FULL_MS,
                )
            return await stages.worker("tts")
        except StageError as error:
            raise Refusal("stage_unavailable", str(error), RETRY_AFTER_FAILURE_MS) from None

    async def _session_id(
        self, start: protocol.SessionStart, outbox: Outbox, persona: Persona
    ) -> tuple[str, bool]:
        """The id of the call and whether it goes on with an earlier one."""
        session_id = start.resume_session_id
        if session_id:
            if await self.store.has_session(session_id):
                if session_id in self._calls:  # its old connection has not been missed yet
                    self._calls[session_id].cancel()
                return session_id, True
            outbox.send(
                protocol.ErrorEvent(
                    code="session_expired", message="The earlier call is gone; this is a new one."
                )
            )
        session_id = secrets.token_urlsafe(16)
        await self.store.add_session(session_id, persona.id)
        return session_id, False

    def _counted(self, session_id: str) -> "_Counted":
        return _Counted(self._calls, session_id)

    # --- what the world may ask ------------------------------------------------------------------

    async def status(self) -> dict[str, object]:
        """The live status page's data."""
        services, capacity = [], self.settings.max_sessions
        redis_healthy = self.streams.healthy
        for service in SERVICES:
            try:
                beats = await registry.workers(self.streams.client, service)
            except (RedisError, OSError):
                beats, redis_healthy = [], False
            workers = [
                {
                    "worker_id": beat.worker_id,
                    "address": beat.address,
                    "backend": beat.backend,
                    "slots": beat.slots,
                    "used": beat.used,
                    "p95_ms": round(beat.p95_ms, 1),
                }
                for beat in beats
            ]
            services.append({"name": service, "healthy": bool(beats), "workers": workers})
            capacity = min(capacity, sum(beat.slots for beat in beats))
        return {
            "gateway": {
                "sessions": self.sessions,
                "max_sessions": capacity,
                "uptime_seconds": round(time.time() - self.started_at),
            },
            "services": services,
            "redis": {"healthy": redis_healthy},
            "latencies_ms": metrics.recent_latencies_ms(),
        }


class _Counted:
    """Keeps the list of calls that are on."""

    def __init__(self, calls: dict[str, asyncio.Task[None]], session_id: str) -> None:
        self._calls = calls
        self._session_id = session_id
        self._task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment]

    def __enter__(self) -> None:
        self._calls[self._session_id] = self._task
        metrics.active_sessions.set(len(self._calls))

    def __exit__(self, *_: object) -> None:
        if (
            self._calls.get(self._session_id) is self._task
        ):  # else a newer connection has taken over
            del self._calls[self._session_id]
        metrics.active_sessions.set(len(self._calls))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, however deep; a lost client counts least, being often a consequence."""
    errors: list[BaseException] = []

    def collect(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                collect(member)
        else:
            errors.append(error)

    collect(group)
    return next((e for e in errors if not isinstance(e, WebSocketDisconnect)), errors[0])


def _video_format(start: protocol.SessionStart, persona: Persona) -> ProtoVideoFormat | None:
    if not start.video.codecs:
        return None
    codec, _ = CODECS[start.video.codecs[0]]
    size_px = min(start.video.size_px, persona.face.width) // 2 * 2
    return ProtoVideoFormat(codec=codec, size_px=size_px)


def _session_started(call: CallContext, resumed: bool) -> protocol.SessionStarted:
    face = call.persona.face
    video = None
    if call.video is not None:
        name = next(name for name, (codec, _) in CODECS.items() if codec == call.video.codec)
        video = protocol.VideoFormat(
            codec=name, webcodecs=CODECS[name][1], size_px=call.video.size_px, fps=face.fps
        )
    base = f"/v1/personas/{call.persona.id}"
    present = [name for name in FACE_FILES if (persona_dir(call.persona.id) / name).is_file()]
    sources = [
        protocol.LoopSource(url=f"{base}/{name}", mime_type=FACE_FILES[name])
        for name in present
        if name.startswith("idle.")
    ]
    return protocol.SessionStarted(
        session_id=call.session_id,
        persona=protocol.PersonaCard(id=call.persona.id, name=call.persona.name),
        speech=protocol.SpeechFormat(sample_rate_hz=call.sample_rate_hz),
        video=video,
        idle_loop=protocol.IdleLoop(
            frames=face.idle_frames, fps=face.fps, sources=sources, poster_url=f"{base}/poster.jpg"
        ),
        resumed=resumed,
    )


def create_app(settings: Settings, clock: Clock | None = None) -> FastAPI:
    gateway = Gateway(settings, clock or RealClock())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway.open():
            yield

    app = FastAPI(title="visavis", lifespan=lifespan)
    app.state.gateway = gateway

    @app.websocket("/v1/call")
    async def call(websocket: WebSocket) -> None:
        await gateway.serve_call(websocket)

    @app.get("/v1/personas")
    async def personas() -> list[dict[str, object]]:
        """Who can be called."""
        return [_card(load_persona(persona_id)) for persona_id in persona_ids()]

    @app.get("/v1/personas/{persona_id}")
    async def persona(persona_id: str) -> dict[str, object]:
        return _card(_persona_or_404(persona_id))

    @app.get("/v1/personas/{persona_id}/{file_name}")
    async def face_file(persona_id: str, file_name: str) -> FileResponse:
        """The face's films and its picture."""
        _persona_or_404(persona_id)
        path = persona_dir(persona_id) / file_name
        if file_name not in FACE_FILES or not path.is_file():
            raise HTTPException(404, f"There is no {file_name!r} of {persona_id!r}.")
        return FileResponse(path, media_type=FACE_FILES[file_name])

    @app.get("/v1/sessions/{session_id}/transcript")
    async def transcript(session_id: str) -> dict[str, object]:
        """What was said in a call, as far as it was heard. Whoever knows the call's id may read it."""
        if not await gateway.store.has_session(session_id):
            raise HTTPException(404, "There is no such call.")
        turns = await gateway.store.turns(session_id)
        return {
            "session_id": session_id,
            "turns": [{"role": turn.role, "text": turn.text} for turn in turns],
        }

    @app.get("/v1/status")
    async def status() -> dict[str, object]:
        return await gateway.status()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, object]:
        """A call could begin: Redis answers and each stage has a worker."""
        state = await gateway.status()
        missing = [s["name"] for s in state["services"] if not s["healthy"]]  # type: ignore[attr-defined]
        ready = not missing and state["redis"]["healthy"]  # type: ignore[index]
        response.status_code = 200 if ready else 503
        return {"ready": ready, "missing": missing, "redis": state["redis"]}

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    web_dir = Path(settings.web_dir) if settings.web_dir else WEB_DIR
    if web_dir.is_dir():

        @app.get("/status", include_in_schema=False)
        async def status_page() -> FileResponse:
            return FileResponse(web_dir / "status.html")

        app.mount("/", StaticFiles(directory=web_dir, html=True))
    else:
        logger.warning("no web client in %s: run `make web`", web_dir)
    return app


def _persona_or_404(persona_id: str) -> Persona:
    try:
        return load_persona(persona_id)
    except UnknownPersonaError as error:
        raise HTTPException(404, str(error)) from None


def _card(persona: Persona) -> dict[str, object]:
    return {
        "id": persona.id,
        "name": persona.name,
        "language": persona.language,
        "poster_url": f"/v1/personas/{persona.id}/poster.jpg",
    }
