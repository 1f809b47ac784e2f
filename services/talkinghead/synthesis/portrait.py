"""Stage 5: the pictures. One still of the resting face, and crops of every lid, gaze and mouth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.talkinghead.synthesis.expressions import (
    GAZES,
    LID_STEPS,
    lid_actions,
    mouth_actions,
    mouth_patches,
)
from services.talkinghead.synthesis.head import Array, Head
from services.talkinghead.synthesis.look import Appearance
from services.talkinghead.synthesis.render import (
    Border,
    Job,
    Picture,
    camera_position,
    eyes_towards,
    neutral_scene,
    project,
    read_picture,
    run_blender,
)

STILL = "still"
# Boxes in face coordinates (metres): left, top, right, bottom, and the depth they are seen at.
MOUTH_BOX = (-0.076, -0.034, 0.076, -0.148, -0.03)
EYES_BOX = (-0.062, 0.024, 0.062, -0.022, -0.02)


@dataclass(frozen=True)
class Quality:
    """How finely to render: pictures of `size` px, `samples` light paths per pixel."""

    size: int
    still_samples: int
    crop_samples: int


def border_of(head: Head, box: tuple[float, float, float, float, float], size: int) -> Border:
    """The picture fractions of a face box, on whole pixels at `size` and at two thirds of it."""
    left, top, right, bottom, depth = box
    corners = np.array([[left, depth, top], [right, depth, bottom]], np.float32)
    seen = project(head, head.eye_centre + corners * head.scale)
    step = size // 3 if size % 3 == 0 else size
    whole = np.round(seen * step / 2) * 2 / step
    return (float(whole[0, 0]), float(whole[0, 1]), float(whole[1, 0]), float(whole[1, 1]))


def render_all(appearance: Appearance, quality: Quality, work: Path, threads: int) -> None:
    """Render every picture that is missing in `work`: about 60 crops and one still."""
    jobs = [Job(STILL, {}, None, quality.still_samples)]
    jobs += _eye_jobs(appearance, quality)
    mouth = border_of(appearance.head, MOUTH_BOX, quality.size)
    for patch in mouth_patches():
        moved = appearance.moving_parts(mouth_actions(patch))
        jobs.append(Job(patch.name, moved, mouth, quality.crop_samples))
    run_blender(neutral_scene(appearance, quality.size), jobs, work, threads)


def _eye_jobs(appearance: Appearance, quality: Quality) -> list[Job]:
    border = border_of(appearance.head, EYES_BOX, quality.size)
    camera, _ = camera_position(appearance.head)
    jobs = [Job("eyes", {}, border, quality.crop_samples)]
    for closure in LID_STEPS:
        moved = appearance.moving_parts(lid_actions(closure))
        jobs.append(Job(lid_name(closure), moved, border, quality.crop_samples))
    for name, (left_m, up_m) in GAZES.items():
        target = camera + np.array([left_m, 0, up_m], np.float32)
        jobs.append(
            Job(gaze_name(name), eyes_towards(appearance, target), border, quality.crop_samples)
        )
    return jobs


def lid_name(closure: float) -> str:
    """File stem of a lid picture."""
    return f"lids{100 * closure:03.0f}"


def gaze_name(gaze: str) -> str:
    """File stem of a gaze picture."""
    return f"gaze-{gaze}"


def read(work: Path, name: str) -> Picture:
    """One finished picture, denoised."""
    return read_picture(work / f"{name}.exr")


def corner_px(border: Border, size: int) -> tuple[int, int]:
    """Left and top of a border in pixels of a picture of `size`."""
    return round(border[0] * size), round(border[1] * size)


def over(foreground: Picture, background: Array) -> Array:
    """Linear colour of a picture laid over a linear background of the same shape."""
    return np.asarray(
        foreground.colour + (1 - foreground.alpha[..., None]) * background, np.float32
    )
