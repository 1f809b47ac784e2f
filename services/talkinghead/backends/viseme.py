"""Mouth shapes from phonemes, drawn into the persona's idle loop: no model, a few milliseconds a picture."""

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from services.talkinghead.backend import FPS, FRAME_MS, LookAhead, Picture
from services.talkinghead.face import Face, FaceError
from services.talkinghead.settings import Settings
from services.talkinghead.visemes import CLOSING_MS, LOOKAHEAD_MS, MouthTrack
from visavis.persona import UnknownPersonaError, persona_dir
from visavis.v1.tts_pb2 import Clause
from visavis.worker import UnknownNameError


class VisemeAnimation:
    look_ahead = LookAhead(timings_ms=LOOKAHEAD_MS)

    def __init__(self, face: Face, first_loop_frame: int) -> None:
        self.size_px = face.width
        self._face = face
        self._first_loop_frame = first_loop_frame
        self._track = MouthTrack()
        self._lock = threading.Lock()  # clauses come on the loop, pictures are drawn in a thread

    def loop_frame(self, index: int) -> int:
        return (self._first_loop_frame + index) % self._face.frame_count

    def push_clause(self, clause: Clause) -> None:
        with self._lock:
            self._track.add(clause.phonemes)

    def push_audio(self, pcm: bytes, sample_rate_hz: int, pts_ms: float) -> None:
        pass  # the mouth follows the phonemes alone

    def end(self, duration_ms: float) -> float:
        with self._lock:
            self._track.stop(duration_ms)
            is_shut = self._track.at(duration_ms).is_rest
            return duration_ms if is_shut else duration_ms + CLOSING_MS

    def draw(self, index: int) -> Picture:
        with self._lock:
            mouth = self._track.at(index * FRAME_MS)
        return self._face.compose(self.loop_frame(index), mouth)


class VisemeBackend:
    batch_size = 8  # drawn one after the other: bounds how long the most urgent picture waits

    def __init__(self, faces: int) -> None:
        self._load_face = lru_cache(faces)(load_face)
        self._loading = threading.Lock()

    def open(self, persona_id: str, first_loop_frame: int) -> VisemeAnimation:
        try:
            package = persona_dir(persona_id)
        except UnknownPersonaError as error:
            raise UnknownNameError(str(error)) from error
        made_ns = (package / "persona.json").stat().st_mtime_ns  # made again: loaded again
        with self._loading:  # once, however many calls ask for it
            face = self._load_face(package, made_ns)
        return VisemeAnimation(face, first_loop_frame)

    def render(self, due: Sequence[tuple[VisemeAnimation, int]]) -> list[Picture]:
        return [animation.draw(index) for animation, index in due]


def load_face(package: Path, made_ns: int) -> Face:
    face = Face.load(package)
    if face.fps != FPS or face.width != face.height:
        raise FaceError(
            f"{package}: {face.width}x{face.height} at {face.fps} fps; must be square, at {FPS}."
        )
    return face


def load(settings: Settings) -> VisemeBackend:
    backend = VisemeBackend(settings.faces)
    if settings.warm_persona:
        backend.open(settings.warm_persona, 0).draw(0)
    return backend
