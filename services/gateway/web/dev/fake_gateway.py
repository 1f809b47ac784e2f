"""A gateway without any model behind it, for work on the page: `npm run build && npm run dev:fake`.

It serves `dist/` and speaks the real protocol: a chirping voice, a drawn face whose mouth follows the voice and that
carries a frame counter, captions, reports. Typed words steer it: "pause" pauses and resumes the reply, "stop" cuts it
off, "long" talks for half a minute, "error" sends an error, "drop" breaks the connection, "full" and "restart" do so
in words. Any other text, and any sound over a threshold, gets a reply.

    --codec h264|vp8|jpeg   instead of the first that the page wishes
    --full                  refuse every call
    --port 8080
"""

import argparse
import asyncio
import contextlib
import math
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from services.gateway import protocol as p

HZ = 22_050
FPS = 25
SIZE = 512
LOOP_FRAMES = 150
AHEAD_MS = {"speech": 1500.0, "video": 600.0}
SENTENCES = [
    "Hello, it is good to see you.",
    "I am not a real person, only a drawing with a chirp for a voice.",
    "But the timing is real, so watch my mouth and the number above my head.",
    "You can cut in at any time.",
]
DIST = Path(__file__).parent.parent / "dist"
PERSONAS = {"ada": ("Ada", (148, 116, 60)), "noor": ("Noor", (96, 84, 130))}

# --- what is seen and heard ----------------------------------------------------------------------


def draw_face(persona_id: str, loop_frame: int, mouth: float, label: str = "") -> np.ndarray:
    """A face that sways with the loop and opens its mouth from 0 to 1. BGR."""
    colour = PERSONAS[persona_id][1]
    picture = np.full((SIZE, SIZE, 3), (58, 50, 42), np.uint8)
    phase = 2 * math.pi * loop_frame / LOOP_FRAMES
    x, y = 256 + int(8 * math.sin(phase)), 225 + int(4 * math.sin(2 * phase))
    skin = (168, 190, 226)
    line = cv2.LINE_AA
    cv2.ellipse(picture, (256 + (x - 256) // 2, 520), (190, 150), 0, 0, 360, colour, -1, line)
    cv2.ellipse(picture, (x, y - 25), (128, 150), 0, 0, 360, (40, 44, 58), -1, line)
    cv2.rectangle(picture, (x - 38, y + 90), (x + 38, y + 185), (150, 172, 208), -1)
    cv2.ellipse(picture, (x, y), (104, 136), 0, 0, 360, skin, -1, line)
    cv2.ellipse(picture, (x, y - 92), (100, 52), 0, 180, 360, (40, 44, 58), -1, line)
    blink = loop_frame % 75 in (40, 41, 42)
    for side in (-1, 1):
        eye = (x + side * 40, y - 18)
        cv2.ellipse(picture, eye, (17, 2 if blink else 10), 0, 0, 360, (245, 245, 245), -1, line)
        if not blink:
            cv2.circle(picture, eye, 7, (70, 50, 40), -1, line)
    cv2.line(picture, (x, y - 5), (x - 6, y + 30), (140, 162, 200), 4, line)
    cv2.ellipse(
        picture,
        (x, y + 68),
        (36 - int(8 * mouth), 4 + int(24 * mouth)),
        0,
        0,
        360,
        (70, 62, 150),
        -1,
        line,
    )
    if label:
        cv2.putText(
            picture, label, (14, 38), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (230, 230, 230), 2, line
        )
    return picture


@cache
def idle_loop(persona_id: str) -> Path:
    """The film, as WebM, in a file: a browser seeks by asking for parts of it."""
    path = Path(tempfile.gettempdir()) / f"visavis-fake-{persona_id}.webm"
    with av.open(str(path), "w", format="webm") as film:
        stream = film.add_stream("libvpx", rate=FPS)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 1_500_000
        stream.options = {"deadline": "realtime", "cpu-used": "8", "g": "15"}
        for frame in range(LOOP_FRAMES):
            picture = av.VideoFrame.from_ndarray(draw_face(persona_id, frame, 0.0), format="bgr24")
            film.mux(stream.encode(picture))
        film.mux(stream.encode())
    return path


class Encoder:
    """One reply's pictures: the first is a keyframe, none refers to a later one."""

    WEBCODECS = {"h264": "avc1.42E01F", "vp8": "vp8", "jpeg": ""}

    def __init__(self, codec: str) -> None:
        self._context = None
        if codec == "jpeg":
            return
        context = av.CodecContext.create({"h264": "libx264", "vp8": "libvpx"}[codec], "w")
        context.width = context.height = SIZE
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, FPS)
        context.framerate = Fraction(FPS)
        context.bit_rate = 900_000
        context.gop_size = 10_000
        context.thread_count = 1  # two threads of libvpx spin against each other on a busy machine
        if codec == "h264":
            context.profile = "Baseline"
            context.options = {"preset": "superfast", "tune": "zerolatency"}
        else:
            context.options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
        self._context = context
        self._frames = 0

    def encode(self, picture: np.ndarray) -> tuple[bytes, bool]:
        if self._context is None:
            return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), True
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts = self._frames
        self._frames += 1
        packets = self._context.encode(frame)
        return b"".join(bytes(packet) for packet in packets), any(k.is_keyframe for k in packets)


def chirps(duration_ms: float) -> tuple[np.ndarray, np.ndarray]:
    """PCM16, and its loudness (0 to 1) per picture."""
    t = np.arange(int(HZ * duration_ms / 1000)) / HZ
    loudness = np.clip(np.sin(2 * np.pi * 2.1 * t) * 0.6 + 0.4, 0, 1) ** 1.5
    pitch = 150 + 40 * np.sin(2 * np.pi * 0.4 * t)
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / HZ)
    tone += 0.4 * np.sin(4 * np.pi * np.cumsum(pitch) / HZ)
    return (tone * loudness * 6000).astype("<i2"), loudness[:: HZ // FPS]


def clauses(epoch: int, sentences: list[str]) -> list[p.ReplyClause]:
    result, now = [], 120.0
    for sentence in sentences:
        words = []
        for word in sentence.split():
            end = now + 110 + 45 * len(word)
            words.append(p.CaptionWord(text=word, start_ms=now, end_ms=end))
            now = end
        start = words[0].start_ms
        result.append(
            p.ReplyClause(epoch=epoch, text=sentence, start_ms=start, end_ms=now, words=words)
        )
        now += 250
    return result


# --- the call ------------------------------------------------------------------------------------


@dataclass
class Call:
    socket: WebSocket
    persona_id: str
    codec: str | None
    session_id: str
    epoch: int = 0
    played_ms: float = 0
    loop_frame: int = 0
    reports: list[p.PlaybackReport] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    reply: asyncio.Task[None] | None = None
    mic_blocks: int = 0
    loud_until: float = 0
    spoke: bool = False

    async def send(self, event: p.Event) -> None:
        await self.socket.send_text(event.model_dump_json())

    async def handle(self, event: p.Event) -> None:
        match event:
            case p.PlaybackReport():
                self.reports.append(event)
                self.loop_frame = event.loop_frame
                if event.epoch == self.epoch:
                    self.played_ms = event.played_ms
                    if event.ended:
                        self.ended.set()
                    self.reported.set()
            case p.TextSend(text=text):
                await self.obey(text)

    async def obey(self, text: str) -> None:
        match text.lower():
            case "pause" if self.talking:
                await self.send(p.ReplyPause(epoch=self.epoch))
                await asyncio.sleep(0.8)
                await self.send(p.ReplyResume(epoch=self.epoch))
            case "stop" if self.talking:
                await self.send(p.UserFinal(text=text))
                await self.stop()
            case "error":
                await self.send(
                    p.ErrorEvent(
                        code="stage_unavailable",
                        message="I lost my voice for a moment. Say that again?",
                    )
                )
            case "drop":
                await self.socket.close(1011)
            case "restart":
                await self.socket.close(1012)
            case "full":
                await self.refuse_full()
            case _:
                await self.answer(text, 12 if text.lower() == "long" else 1)

    @property
    def talking(self) -> bool:
        return self.reply is not None and not self.reply.done()

    async def refuse_full(self) -> None:
        message = "All places are taken."
        await self.send(
            p.ErrorEvent(code="server_full", message=message, fatal=True, retry_after_ms=6000)
        )
        await self.socket.close(1013)

    async def stop(self) -> None:
        if not self.talking or self.reply is None:
            return
        self.ended.clear()
        await self.send(p.ReplyStop(epoch=self.epoch))
        self.reply.cancel()

    async def answer(self, text: str, times: int) -> None:
        await self.stop()
        await self.send(p.UserFinal(text=text))
        self.epoch += 1
        self.played_ms = 0
        self.ended.clear()
        await asyncio.sleep(0.25)
        self.reply = asyncio.create_task(self.talk(self.epoch, SENTENCES * times))

    async def talk(self, epoch: int, sentences: list[str]) -> None:
        started = time.monotonic()
        spoken = clauses(epoch, sentences)
        duration_ms = spoken[-1].end_ms + 150
        reason = "finished"
        try:
            await self.send(p.ReplyStarted(epoch=epoch, sample_rate_hz=HZ))
            for clause in spoken:
                await self.send(clause)
            last_loop_frame = await self.send_media(epoch, duration_ms)
            await self.send(
                p.ReplySent(epoch=epoch, duration_ms=duration_ms, loop_frame=last_loop_frame)
            )
            ms = (time.monotonic() - started) * 1000
            timings = {"asr_final": 84.0, "llm_first_token": 181.0, "tts_first_sound": 322.0}
            timings |= {"first_picture_sent": 405.0, "heard": 512.0, "all_sent": ms}
            await self.send(p.TurnTimings(epoch=epoch, timings_ms=timings))
        except asyncio.CancelledError:
            reason = "barge_in"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), 60)
        heard = " ".join(w.text for c in spoken for w in c.words if w.start_ms < self.played_ms)
        with contextlib.suppress(RuntimeError):
            await self.send(p.ReplyEnded(epoch=epoch, reason=reason, heard_text=heard))

    async def send_media(self, epoch: int, duration_ms: float) -> int:
        pcm, loudness = chirps(duration_ms)
        encoder = Encoder(self.codec or "jpeg")
        first = self.loop_frame
        step = HZ // FPS
        speech = video = 0
        frames = len(loudness)
        while speech < frames or video < frames:
            if speech < frames and speech * 40 < self.played_ms + AHEAD_MS["speech"]:
                part = pcm[speech * step : (speech + 1) * step].tobytes()
                await self.packet(p.MediaKind.SPEECH, epoch, speech * step * 1000 / HZ, part)
                speech += 1
            elif self.codec and video < speech and video * 40 < self.played_ms + AHEAD_MS["video"]:
                loop_frame = (first + video) % LOOP_FRAMES
                label = f"{epoch}:{video}"
                picture = draw_face(self.persona_id, loop_frame, float(loudness[video]), label)
                payload, keyframe = await asyncio.to_thread(encoder.encode, picture)
                await self.packet(
                    p.MediaKind.VIDEO, epoch, video * 40.0, payload, keyframe, loop_frame
                )
                video += 1
            elif self.codec is None and speech >= frames:
                break
            else:
                self.reported.clear()
                await self.reported.wait()
        return (first + frames) % LOOP_FRAMES

    async def packet(
        self,
        kind: p.MediaKind,
        epoch: int,
        pts_ms: float,
        payload: bytes,
        keyframe: bool = False,
        loop_frame: int = 0,
    ) -> None:
        packet = p.MediaPacket(kind, epoch, pts_ms, payload, keyframe, loop_frame)
        await self.socket.send_bytes(packet.pack())

    async def hear(self, packet: p.MediaPacket) -> None:
        """A crude ear: loud for long enough, then quiet for 0.7 s, is a turn."""
        self.mic_blocks += 1
        pcm = np.frombuffer(packet.payload, "<i2").astype(np.float32)
        loud = float(np.sqrt(np.mean(pcm**2))) > 900
        if loud and not self.talking:
            if packet.pts_ms > self.loud_until:
                await self.send(p.UserSpeechStarted(at_ms=packet.pts_ms))
                await self.send(p.UserPartial(text="(your voice…)"))
            self.loud_until = packet.pts_ms + 700
            self.spoke = True
        elif self.spoke and packet.pts_ms > self.loud_until:
            self.spoke = False
            await self.send(p.UserSpeechStopped(at_ms=packet.pts_ms - 700))
            await self.answer("(your voice)", 1)


# --- the server ----------------------------------------------------------------------------------

SESSIONS: dict[str, int] = {}  # session id: its last epoch
STARTED = time.monotonic()


def create_app(codec: str | None, full: bool) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(idle_loop, "ada")
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/v1/personas")
    def personas() -> list[dict[str, str]]:
        return [
            {"id": id, "name": name, "poster_url": f"/fake/{id}.jpg"}
            for id, (name, _) in PERSONAS.items()
        ]

    @app.get("/fake/{persona_id}.jpg")
    def poster(persona_id: str) -> Response:
        picture = cv2.imencode(".jpg", draw_face(persona_id, 0, 0.0))[1].tobytes()
        return Response(picture, media_type="image/jpeg")

    @app.get("/fake/{persona_id}.webm")
    def film(persona_id: str) -> FileResponse:
        return FileResponse(idle_loop(persona_id), media_type="video/webm")

    @app.get("/v1/status")
    def status() -> dict[str, object]:
        def service(
            name: str, backend: str, used: int, p95: float, well: bool = True
        ) -> dict[str, object]:
            worker: dict[str, object] = {
                "worker_id": f"{name}-1",
                "address": f"127.0.0.1:{9000 + len(name)}",
            }
            worker |= {"backend": backend, "slots": 4, "used": used, "p95_ms": p95}
            return {"name": name, "healthy": well, "workers": [worker]}

        return {
            "gateway": {
                "sessions": 1,
                "max_sessions": 4,
                "uptime_seconds": time.monotonic() - STARTED,
            },
            "services": [
                service("asr", "embedded", 1, 96.0),
                service("llm", "embedded", 1, 310.0),
                service("tts", "embedded", 2, 148.0),
                service("talkinghead", "embedded", 1, 31.0),
            ],
            "redis": {"healthy": True},
            "latencies_ms": {
                "voice_to_voice": {"p50": 812.0, "p95": 1104.0, "count": 37},
                "asr_final": {"p50": 84.0, "p95": 131.0, "count": 37},
                "llm_first_token": {"p50": 190.0, "p95": 344.0, "count": 37},
                "tts_first_sound": {"p50": 330.0, "p95": 507.0, "count": 37},
            },
        }

    @app.websocket("/v1/call")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        start = p.parse_client_event(await socket.receive_text())
        assert isinstance(start, p.SessionStart)
        chosen = codec or (start.video.codecs[0] if start.video.codecs else None)
        resumed = start.resume_session_id in SESSIONS
        session_id = start.resume_session_id if resumed else uuid.uuid4().hex[:12]
        persona_id = start.persona_id or "ada"
        call = Call(socket, persona_id, chosen, session_id, epoch=SESSIONS.get(session_id, 0))
        if full:
            return await call.refuse_full()
        if persona_id not in PERSONAS:
            error = p.ErrorEvent(code="unknown_persona", message="No such persona.", fatal=True)
            await call.send(error)
            return await socket.close()
        await call.send(started(call, resumed))
        try:
            await listen(call)
        except (WebSocketDisconnect, RuntimeError):
            pass  # hung up or gone
        finally:
            SESSIONS[session_id] = call.epoch
            if call.reply:
                call.reply.cancel()

    @app.get("/status")
    def status_page() -> FileResponse:
        return FileResponse(DIST / "status.html")

    app.mount("/", StaticFiles(directory=DIST, html=True))
    return app


def started(call: Call, resumed: bool) -> p.SessionStarted:
    source = p.LoopSource(url=f"/fake/{call.persona_id}.webm", mime_type="video/webm")
    poster = f"/fake/{call.persona_id}.jpg"
    video = None
    if call.codec:
        webcodecs = Encoder.WEBCODECS[call.codec]
        video = p.VideoFormat(codec=call.codec, webcodecs=webcodecs, size_px=SIZE, fps=FPS)
    return p.SessionStarted(
        session_id=call.session_id,
        persona=p.PersonaCard(id=call.persona_id, name=PERSONAS[call.persona_id][0]),
        speech=p.SpeechFormat(sample_rate_hz=HZ),
        video=video,
        idle_loop=p.IdleLoop(frames=LOOP_FRAMES, fps=FPS, sources=[source], poster_url=poster),
        resumed=resumed,
    )


async def listen(call: Call) -> None:
    async with asyncio.TaskGroup() as tasks:
        while True:
            message = await call.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("bytes"):
                packet = p.MediaPacket.unpack(message["bytes"])
                p.check_mic_packet(packet)
                await call.hear(packet)
            else:
                event = p.parse_client_event(message["text"])
                if isinstance(event, p.SessionEnd):
                    return await call.socket.close()
                tasks.create_task(call.handle(event))


def main() -> None:
    parser = argparse.ArgumentParser(description="A gateway without any model behind it.")
    parser.add_argument("--codec", choices=["h264", "vp8", "jpeg"])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    app = create_app(options.codec, options.full)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
