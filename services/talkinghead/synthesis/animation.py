"""Stage 6: the idle loop. The still breathes, sways, blinks and glances, and ends where it began.

Rendering every frame would take hours. Instead the depth of the still gives every pixel a place in
space, so that a small turn of the head is a smooth displacement of pixels. Displacements are linear in
the motion at these sizes (up to 3 degrees): each kind of motion is one field, made once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from services.talkinghead.synthesis.head import Array, Head, smoothstep
from services.talkinghead.synthesis.render import project, unproject

FRAMES_PER_SECOND = 25
LOOP_FRAMES = 250
# Grid of the mouth patch's bends; its cells are some 15 px.
BEND_ROWS, BEND_COLUMNS = 12, 16
# Closure of the lids, frame by frame: down in 80 ms, up in 160 ms.
BLINK = (0.30, 0.76, 0.90, 0.82, 0.58, 0.32, 0.12)
BLINK_FRAMES = (44, 121, 196)
# Which way he looks when not into the camera: first frame, last frame, gaze.
GLANCES = ((70, 86, "left"), (148, 163, "down"), (222, 236, "right"))


@dataclass(frozen=True)
class Curve:
    """A closed motion: amplitude of the whole, and the phase and share of each harmonic of the loop."""

    amplitude: float
    harmonics: Mapping[int, tuple[float, float]]

    def at(self, frame: int) -> float:
        """Its value; frame and frame + LOOP_FRAMES give the same."""
        turn = 2 * np.pi * frame / LOOP_FRAMES
        return self.amplitude * sum(
            share * float(np.sin(cycles * turn + phase))
            for cycles, (phase, share) in self.harmonics.items()
        )


# Degrees for yaw, pitch, roll; reference metres for shifts, breath and brows.
MOTION: Mapping[str, Curve] = {
    "yaw": Curve(1.7, {1: (0.4, 0.8), 2: (2.1, 0.5), 3: (4.0, 0.25), 5: (1.0, 0.10)}),
    "pitch": Curve(1.1, {1: (3.3, 0.5), 2: (0.2, 0.6), 3: (1.4, 0.35), 5: (5.0, 0.15)}),
    "roll": Curve(0.9, {1: (1.9, 0.8), 2: (5.1, 0.45), 4: (0.6, 0.15)}),
    "shift_x": Curve(0.0016, {1: (0.9, 0.9), 2: (2.6, 0.4)}),
    "shift_z": Curve(0.0007, {1: (4.4, 0.7), 3: (0.0, 0.6)}),
    "breath": Curve(0.0016, {3: (0.0, 1.0)}),
    "brows": Curve(0.0009, {1: (5.5, 0.6), 2: (1.2, 0.5), 3: (3.0, 0.4)}),
}


def blink_at(frame: int) -> float:
    """How far the lids are closed, 0..1."""
    for first in BLINK_FRAMES:
        if 0 <= frame - first < len(BLINK):
            return BLINK[frame - first]
    return 0.0


def glance_at(frame: int) -> tuple[str | None, float]:
    """Which gaze and how far the eyes have gone there (an eye needs 40 ms to jump)."""
    for first, last, gaze in GLANCES:
        if first <= frame <= last:
            return gaze, 0.5 if frame in (first, last) else 1.0
    return None, 0.0


class MotionField:
    """Displacements of the still's pixels for every kind of motion, in pixels at `size`."""

    def __init__(self, head: Head, depth_m: Array, alpha: Array) -> None:
        self._size = len(depth_m)
        points = self._points(head, depth_m, alpha)
        self._fields = {name: self._field(head, points, name) for name in MOTION}

    def forward(self, frame: int) -> Array:
        """Where each pixel goes: displacement [h,w,2]."""
        parts = [curve.at(frame) * self._fields[name] for name, curve in MOTION.items()]
        return np.asarray(np.sum(parts, 0), np.float32)

    def backward(self, frame: int) -> Array:
        """Where each pixel comes from: absolute places [h,w,2] for cv2.remap."""
        forward = self.forward(frame)
        grid = _pixel_grid(self._size)
        source = grid.copy()
        for _ in range(3):  # fixed point of source = grid - forward(source)
            moved = cv2.remap(
                forward, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            source = grid - moved
        return source

    def _points(self, head: Head, depth_m: Array, alpha: Array) -> Array:
        """A place in space [h,w,3] for every pixel; the background takes the depth of its nearest edge."""
        inside = (alpha > 0.9).astype(np.uint8)
        _, label = cv2.distanceTransformWithLabels(
            1 - inside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        depth_of_label = np.zeros(label.max() + 1, np.float32)
        depth_of_label[label[inside > 0]] = depth_m[inside > 0]
        filled = cv2.GaussianBlur(depth_of_label[label], (0, 0), self._size / 110)
        fractions = (_pixel_grid(self._size) + 0.5) / self._size
        return unproject(head, fractions, filled)

    def _field(self, head: Head, points: Array, motion: str) -> Array:
        """Pixels of displacement per unit of one motion (per degree or per reference metre)."""
        face = (points - head.eye_centre) / head.scale
        x, z, still = face[..., 0], face[..., 2], np.zeros_like(face[..., 0])
        on_head = smoothstep(-0.205, -0.105, z)
        if motion in ("yaw", "pitch", "roll"):
            moved = _turn(face, motion, np.radians(1.0))
            shift = (moved - face) * on_head[..., None]
        elif motion == "breath":
            # Shoulders rise, and a little less the head that rests on them.
            rise = 0.35 + 0.65 * smoothstep(-0.12, -0.20, z)
            widen = 1.25 * x * smoothstep(-0.15, -0.21, z)
            shift = np.stack([widen, still, rise], -1)
        elif motion == "brows":
            brow = np.exp(-(((z - 0.026) / 0.014) ** 2)) * np.exp(-((x / 0.055) ** 4))
            shift = np.stack([still, still, brow], -1)
        else:
            direction = (1.0, 0, 0) if motion == "shift_x" else (0, 0, 1.0)
            shift = (0.4 + 0.6 * on_head)[..., None] * np.array(direction)
        small = 1.0 if motion in ("yaw", "pitch", "roll") else 1e-3
        moved_points = points + (small * head.scale * shift).astype(np.float32)
        change = (project(head, moved_points) - project(head, points)) * self._size / small
        return np.asarray(cv2.GaussianBlur(change, (0, 0), self._size / 90), np.float32)


def _turn(face: Array, motion: str, angle: float) -> Array:
    """Turn points in face coordinates about the joint of skull and neck."""
    joint = np.array([0, 0.075, -0.085], np.float32)
    c, s = np.cos(angle), np.sin(angle)
    matrices = {
        "yaw": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        "pitch": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "roll": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
    }
    return np.asarray((face - joint) @ np.array(matrices[motion], np.float32).T + joint, np.float32)


def _pixel_grid(size: int) -> Array:
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    return np.stack([columns, rows], -1).astype(np.float32)


@dataclass(frozen=True)
class Layers:
    """The still as layers in display colours 0..1: the person (not premultiplied), alpha, the room."""

    person: Array
    alpha: Array
    room: Array


class IdleLoop:
    """Frames of the loop at `frame_size`, and where the mouth patch lands in each."""

    def __init__(self, layers: Layers, field: MotionField, frame_size: int) -> None:
        self._layers, self._field, self._frame_size = layers, field, frame_size
        self._size = len(layers.alpha)
        self._room = cv2.resize(layers.room, (frame_size, frame_size), interpolation=cv2.INTER_AREA)

    def frame(self, index: int, eyes: Array, corner: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """One frame, BGR [h,w,3]. `eyes` [h,w,3] is added to the still with its top left at `corner`."""
        person = self._layers.person.copy()
        left, top = corner
        person[top : top + eyes.shape[0], left : left + eyes.shape[1]] += eyes
        alpha = self._layers.alpha[..., None]
        premultiplied = np.concatenate([np.clip(person, 0, 1) * alpha, alpha], -1)
        # Soften by about half an output pixel first, so that the shrinking does not alias.
        premultiplied = cv2.GaussianBlur(
            premultiplied, (0, 0), 0.42 * self._size / self._frame_size
        )
        source = self._field.backward(index)
        source = cv2.resize(
            source, (self._frame_size, self._frame_size), interpolation=cv2.INTER_AREA
        )
        warped = cv2.remap(
            premultiplied, source, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        cover = np.clip(warped[..., 3:], 0, 1)
        picture = warped[..., :3] + (1 - cover) * self._room
        rgb = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(rgb[..., ::-1])

    def patch_landing(
        self, index: int, corner: tuple[int, int], weights: Array
    ) -> tuple[Array, Array]:
        """Where a mouth patch lands in one frame: an affine [2,3] from patch to frame pixels, and the
        bends [BEND_ROWS,BEND_COLUMNS,2] of the turning head that no affine can follow.

        `corner` is the patch's place in the still and `weights` [h,w] its mask, at frame size.
        """
        height, width = weights.shape
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        in_patch = np.stack([columns, rows], -1).astype(np.float32)
        in_still = in_patch + np.array(corner, np.float32)
        ratio = self._size / self._frame_size
        places = ((in_still + 0.5) * ratio - 0.5).astype(np.float32)
        moved = cv2.remap(self._field.forward(index), places, None, cv2.INTER_LINEAR)
        target = (in_still + moved / ratio).reshape(-1, 2)
        root = np.sqrt(weights.reshape(-1, 1))
        terms = np.c_[in_patch.reshape(-1, 2), np.ones(height * width)]
        affine = np.linalg.lstsq(terms * root, target * root, rcond=None)[0]
        residual = (target - terms @ affine).reshape(height, width, 2).astype(np.float32)
        bends = cv2.resize(residual, (BEND_COLUMNS, BEND_ROWS), interpolation=cv2.INTER_AREA)
        return np.asarray(affine.T, np.float32), np.asarray(bends, np.float32)
