"""Stage 4, outside Blender: write scenes and jobs, run Blender on scene.py, read and finish pictures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import OpenEXR
import pyoidn

from services.talkinghead.synthesis.expressions import resting_face
from services.talkinghead.synthesis.head import Array, Head, Indices
from services.talkinghead.synthesis.look import Appearance

# Fractions of the picture: left, top, right, bottom.
Border = tuple[float, float, float, float]
Scene = dict[str, npt.NDArray[Any]]
CAMERA_DISTANCE_M = 1.15
FIELD_OF_VIEW_DEG = 18.0


@dataclass(frozen=True)
class Job:
    """One picture: the neutral face with `moved` laid over it, inside `border` (None: all)."""

    name: str
    moved: Mapping[str, Array]
    border: Border | None
    samples: int


@dataclass(frozen=True)
class Picture:
    """A denoised rendering: linear colour [h,w,3] (premultiplied), alpha and depth [h,w] (metres)."""

    colour: Array
    alpha: Array
    depth_m: Array


def camera_position(head: Head) -> tuple[Array, Array]:
    """Where the camera stands and the point it looks at, just below the eyes."""
    scale = head.scale
    target = head.eye_centre + np.array([0, 0.02, -0.036], np.float32) * scale
    position = target + np.array([0.03, -CAMERA_DISTANCE_M, 0.030], np.float32) * scale
    return position.astype(np.float32), target.astype(np.float32)


def project(head: Head, points: Array) -> Array:
    """World points [...,3] to picture fractions [...,2], 0..1 from the top left."""
    position, target = camera_position(head)
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    seen = (points - position) @ axes.T
    half = np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    return np.asarray(0.5 + 0.5 * seen[..., :2] / (seen[..., 2:] * half), np.float32)


def unproject(head: Head, fractions: Array, depth_m: Array) -> Array:
    """Inverse of `project`, for depths along the camera's axis."""
    position, target = camera_position(head)
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    half = np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    across = (fractions - 0.5) * 2 * half * depth_m[..., None]
    seen = np.concatenate([across, depth_m[..., None]], -1)
    return np.asarray(seen @ axes + position, np.float32)


def neutral_scene(appearance: Appearance, size: int) -> Scene:
    """Everything scene.py needs to build the person with his resting face."""
    head, look = appearance.head, appearance.look
    camera, target = camera_position(head)
    cloth, below = appearance.cloth()
    return {
        **appearance.moving_parts(resting_face()),
        **eyes_towards(appearance, camera),
        "eyes_quads": np.concatenate(_eye_quads(appearance, camera)),
        "eyes_colour": np.concatenate([e.colours for e in appearance.eyes(camera)]),
        "skin_quads": head.skin.quads,
        "skin_colour": appearance.skin_colours(),
        "skin_mask": appearance.skin_masks(),
        "skin_rest": appearance.skin.face_xyz,
        "teeth_quads": appearance.teeth.quads,
        "teeth_colour": appearance.teeth.colours,
        "tongue_quads": head.tongue.quads,
        "cloth": cloth,
        "cloth_below": below,
        "cloth_quads": head.cloth.quads,
        "hair": appearance.head_hair,
        "camera": camera,
        "camera_target": target,
        "eye_centre": head.eye_centre,
        "scale": np.array(head.scale),
        "field_of_view_deg": np.array(FIELD_OF_VIEW_DEG),
        "size": np.array(size),
        "look": np.array(json.dumps(asdict(look))),
    }


def eyes_towards(appearance: Appearance, target: Array) -> dict[str, Array]:
    """The eyeballs turned to a point in space."""
    return {"eyes": np.concatenate([eye.vertices for eye in appearance.eyes(target)])}


def _eye_quads(appearance: Appearance, target: Array) -> list[Indices]:
    quads, first = [], 0
    for eye in appearance.eyes(target):
        quads.append(eye.quads + first)
        first += len(eye.vertices)
    return quads


def run_blender(scene: Scene, jobs: Sequence[Job], work: Path, threads: int = 0) -> None:
    """Render the jobs whose pictures are missing in `work`.

    Raises subprocess.CalledProcessError when Blender fails; `work/blender.log` says why.
    """
    missing = [job for job in jobs if not (work / f"{job.name}.exr").exists()]
    if not missing:
        return
    work.mkdir(parents=True, exist_ok=True)
    scene_path = work / "scene.npz"
    np.savez(scene_path, allow_pickle=False, **scene)
    listing = []
    for job in missing:
        moved_path = work / f"{job.name}.npz"
        np.savez(moved_path, allow_pickle=False, **job.moved)
        entry = {"name": job.name, "moved": str(moved_path), "border": job.border}
        listing.append({**entry, "samples": job.samples})
    jobs_path = work / "jobs.json"
    jobs_path.write_text(json.dumps(listing))
    script = Path(__file__).with_name("scene.py")
    command = ["blender", "--background", "--factory-startup", "--threads", str(threads)]
    command += ["--python-exit-code", "1", "--python", str(script), "--"]
    command += [str(scene_path), str(jobs_path), str(work)]
    with (work / "blender.log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


def read_picture(path: Path) -> Picture:
    """Read a rendering and denoise it with Intel's Open Image Denoise."""
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = {name: np.asarray(ch.pixels) for name, ch in file.channels().items()}
    colour = _layer(channels, "Combined", "RGB")
    alpha = _channel(channels, "Combined.A")
    albedo = np.clip(_layer(channels, "Denoising Albedo", "RGB"), 0, 1)
    normal = np.clip(_layer(channels, "Denoising Normal", "XYZ"), -1, 1)
    clean = pyoidn.denoise(np.ascontiguousarray(colour), albedo, normal, hdr=True)
    depth = _channel(channels, "Depth.Z") if _has(channels, "Depth.Z") else np.zeros_like(alpha)
    return Picture(np.maximum(np.asarray(clean), 0), np.clip(alpha, 0, 1), depth)


def _has(channels: Mapping[str, Array], ending: str) -> bool:
    return any(name.endswith(ending) for name in channels)


def _channel(channels: Mapping[str, Array], ending: str) -> Array:
    return next(np.asarray(c, np.float32) for name, c in channels.items() if name.endswith(ending))


def _layer(channels: Mapping[str, Array], layer: str, letters: str) -> Array:
    parts = [_channel(channels, f"{layer}.{letter}") for letter in letters]
    return np.ascontiguousarray(np.stack(parts, -1))


def develop(linear: Array, exposure: float = 1.0) -> Array:
    """Linear light [h,w,3] to display RGB 0..1: a filmic curve, then the sRGB transfer function."""
    x = np.maximum(linear * exposure, 0) * 0.72
    # Narkowicz' fit of the ACES curve: soft shoulder, so that highlights on skin do not clip.
    film = np.clip((x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    srgb = np.where(film < 0.0031308, 12.92 * film, 1.055 * film ** (1 / 2.4) - 0.055)
    return np.asarray(srgb, np.float32)
