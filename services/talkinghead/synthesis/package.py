"""Stage 7: the persona package. Idle loop, mouth atlas and description, as face.py reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from services.talkinghead.synthesis import portrait
from services.talkinghead.synthesis.animation import (
    FRAMES_PER_SECOND,
    LOOP_FRAMES,
    IdleLoop,
    Layers,
    MotionField,
    blink_at,
    glance_at,
)
from services.talkinghead.synthesis.expressions import LID_STEPS, mouth_patches
from services.talkinghead.synthesis.head import Array, Head, smoothstep
from services.talkinghead.synthesis.render import Picture, develop
from services.talkinghead.synthesis.room import blurred_room

Frame = npt.NDArray[np.uint8]
FRAME_SIZE = 512
SHEET_COLUMNS = 9
BT601 = 6  # what OpenCV means by YUV; players guess otherwise
CODECS = {
    "idle.mp4": ("libx264", {"crf": "9", "preset": "slow", "movflags": "+faststart"}),
    "idle.webm": ("libvpx-vp9", {"crf": "16", "b": "0", "row-mt": "1", "cpu-used": "2"}),
}


def write_package(head: Head, work: Path, size: int, persona: dict[str, Any], out: Path) -> None:
    """Write a whole persona package to `out` from the pictures of `size` px in `work`."""
    out.mkdir(parents=True, exist_ok=True)
    still = portrait.read(work, portrait.STILL)
    room = blurred_room(size)
    mask = _write_mouth(head, work, size, room, out)
    layers = Layers(_person(still), still.alpha, develop(room))
    loop = IdleLoop(layers, MotionField(head, still.depth_m, still.alpha), FRAME_SIZE)
    corner = portrait.corner_px(portrait.border_of(head, portrait.MOUTH_BOX, size), FRAME_SIZE)
    weights = mask.astype(np.float32) / 255
    landings = [loop.patch_landing(i, corner, weights) for i in range(LOOP_FRAMES)]
    shapes = [[p.jaw, p.width, p.press, p.lip_teeth] for p in mouth_patches()]
    np.savez_compressed(
        out / "face.npz",
        alpha=mask,
        shapes=np.array(shapes, np.float32),
        warps=np.stack([warp for warp, _ in landings]),
        bends=np.stack([bends for _, bends in landings]).astype(np.float16),
    )
    frames = list(_idle_frames(head, work, size, loop))
    for name, (codec, options) in CODECS.items():
        write_video(out / name, frames, codec, options)
    cv2.imwrite(str(out / "poster.jpg"), frames[0], [cv2.IMWRITE_JPEG_QUALITY, 92])
    persona["face"] = {
        **{"width": FRAME_SIZE, "height": FRAME_SIZE, "fps": FRAMES_PER_SECOND},
        "idle_frames": LOOP_FRAMES,
        "mouth": {
            **{"width": mask.shape[1], "height": mask.shape[0]},
            **{"patches": len(shapes), "columns": SHEET_COLUMNS},
        },
    }
    (out / "persona.json").write_text(json.dumps(persona, indent=2, ensure_ascii=False) + "\n")


def write_video(path: Path, frames: list[Frame], codec: str, options: dict[str, str]) -> None:
    """Encode BGR frames as yuv420p at the loop's frame rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(FRAMES_PER_SECOND), options=options)
        stream.width, stream.height, stream.pix_fmt = (
            frames[0].shape[1],
            frames[0].shape[0],
            "yuv420p",
        )
        stream.codec_context.colorspace = BT601
        for frame in frames:
            # OpenCV's conversion, because face.py undoes it with OpenCV's: others round differently.
            planes = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, "yuv420p")))
        container.mux(stream.encode(None))


def feather_mask(width: int, height: int) -> Frame:
    """Weight of the mouth patch, 0..255: full over mouth and chin, nothing at the border."""
    x = np.abs(np.linspace(-1, 1, width))[None]
    y = np.abs(np.linspace(-1, 1, height))[:, None]
    weight = smoothstep(1.0, 0.82, x) * smoothstep(1.0, 0.80, y)
    return np.round(255 * weight).astype(np.uint8)


def _person(picture: Picture) -> Array:
    """Display colour of the person alone, not premultiplied."""
    return develop(picture.colour / np.maximum(picture.alpha, 1e-3)[..., None])


def _write_mouth(head: Head, work: Path, size: int, room: Array, out: Path) -> Frame:
    """Write the sheet of mouth patches; returns the feather mask of one patch."""
    border = portrait.border_of(head, portrait.MOUTH_BOX, size)
    left, top = portrait.corner_px(border, size)
    patches = []
    for patch in mouth_patches():
        picture = portrait.read(work, patch.name)
        height, width = picture.alpha.shape
        behind = room[top : top + height, left : left + width]
        shown = develop(portrait.over(picture, behind))
        smaller = (round(width * FRAME_SIZE / size), round(height * FRAME_SIZE / size))
        patches.append(cv2.resize(shown, smaller, interpolation=cv2.INTER_AREA))
    height, width = patches[0].shape[:2]
    rows = -(-len(patches) // SHEET_COLUMNS)
    sheet = np.zeros((rows * height, SHEET_COLUMNS * width, 3), np.float32)
    for i, patch in enumerate(patches):
        row, column = divmod(i, SHEET_COLUMNS)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = patch
    bgr = np.round(sheet[..., ::-1] * 255).astype(np.uint8)
    cv2.imwrite(str(out / "mouth.webp"), bgr, [cv2.IMWRITE_WEBP_QUALITY, 96])
    return feather_mask(width, height)


def _idle_frames(head: Head, work: Path, size: int, loop: IdleLoop) -> Iterator[Frame]:
    corner = portrait.corner_px(portrait.border_of(head, portrait.EYES_BOX, size), size)
    open_eyes = _person(portrait.read(work, "eyes"))
    weight = feather_mask(open_eyes.shape[1], open_eyes.shape[0])[..., None] / np.float32(255)
    # The frames show the still plus this difference, so that nothing changes where nothing moves.
    lids = [np.zeros_like(open_eyes)]
    lids += [
        weight * (_person(portrait.read(work, portrait.lid_name(c))) - open_eyes) for c in LID_STEPS
    ]
    for index in range(LOOP_FRAMES):
        eyes = _between(lids, (0.0, *LID_STEPS), blink_at(index))
        gaze, amount = glance_at(index)
        if gaze is not None:
            seen = _person(portrait.read(work, portrait.gaze_name(gaze)))
            eyes = eyes + amount * weight * (seen - open_eyes)
        yield loop.frame(index, eyes, corner)


def _between(pictures: list[Array], steps: tuple[float, ...], value: float) -> Array:
    """Linear blend of the two pictures whose steps enclose `value`."""
    upper = int(np.clip(np.searchsorted(steps, value), 1, len(steps) - 1))
    share = np.float32((value - steps[upper - 1]) / (steps[upper] - steps[upper - 1]))
    return np.asarray(pictures[upper - 1] * (1 - share) + pictures[upper] * share)
