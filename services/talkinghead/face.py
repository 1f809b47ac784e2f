"""A persona's face as pictures: the idle loop, and a talking mouth laid over any frame of it.

A package directory holds
    persona.json   who it is; its "face" gives sizes, frame rate and the layout of the mouth sheet
    idle.mp4       the idle loop, mouth at rest, last frame leads into the first
    mouth.webp     a sheet of mouth patches, left to right, top to bottom
    face.npz       alpha [h,w] weight of a patch, 0..255
                   shapes [K,4] jaw, width, press, lip_teeth of each patch (see visemes.MouthShape)
                   warps [N,2,3] affine from patch pixels to the pixels of each idle frame
                   bends [N,r,c,2] what a turning head adds to that, in frame pixels, at the
                   middles of r x c cells that divide the patch evenly

A mouth is added to the frame as its difference from the patch at rest. So a mouth at rest leaves the frame
as it is, to the bit, and what a shape does not move (cheeks, collar) cannot show a seam. Around lips that
speak the frame itself is faded out for the patch, or the frame's own closed lips would shine through.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from services.talkinghead.visemes import MouthShape

Picture = npt.NDArray[np.uint8]
Difference = npt.NDArray[np.int16]

# From this far from rest on, the patch alone is seen around the lips.
SPEAKING = 0.12

REMAKE = "make the package again: python -m services.talkinghead.synthesis --out DIRECTORY"


class FaceError(Exception):
    """A persona package is missing, incomplete or inconsistent; the message says what to do."""


class MouthAtlas:
    """Mouth patches over mouth space: a regular grid of jaw x width, and the contacts beside it."""

    def __init__(self, differences: list[Difference], shapes: npt.NDArray[np.float32]) -> None:
        grid: dict[tuple[float, float], Difference] = {}
        self._press: list[tuple[float, Difference]] = []
        self._lip_teeth: list[tuple[float, Difference]] = []
        for difference, shape in zip(differences, shapes.tolist(), strict=True):
            jaw, width, press, lip_teeth = shape
            if press > 0:
                self._press.append((width, difference))
            elif lip_teeth > 0:
                self._lip_teeth.append((width, difference))
            else:
                grid[jaw, width] = difference
        self._jaws = sorted({jaw for jaw, _ in grid})
        self._widths = sorted({width for _, width in grid})
        if (
            len(grid) != len(self._jaws) * len(self._widths)
            or min(len(self._jaws), len(self._widths)) < 2
        ):
            raise FaceError(f"face.npz: the shapes are no complete grid of jaw x width; {REMAKE}")
        self._grid = [[grid[jaw, width] for width in self._widths] for jaw in self._jaws]
        self._press.sort(key=lambda item: item[0])
        self._lip_teeth.sort(key=lambda item: item[0])

    def difference(self, mouth: MouthShape) -> Difference:
        """What the mouth adds to a frame, in patch pixels: BGR int16 [h,w,3]."""
        row, down = _interval(self._jaws, mouth.jaw)
        column, across = _interval(self._widths, mouth.width)
        upper = _mix(self._grid[row][column], self._grid[row][column + 1], across)
        lower = _mix(self._grid[row + 1][column], self._grid[row + 1][column + 1], across)
        blended = _mix(upper, lower, down)
        for contacts, amount in ((self._lip_teeth, mouth.lip_teeth), (self._press, mouth.press)):
            if contacts and amount > 0:
                blended = _mix(blended, _at_width(contacts, mouth.width), min(amount, 1.0))
        return blended


@dataclass(frozen=True)
class Landing:
    """The box of one frame that a patch touches, and where its pixels come from.

    `sources` [r,c,2] are patch pixels for the middles of cells that divide the box evenly; the way
    between them is linear, which cv2.resize does quickly and exactly on that grid.
    """

    sources: npt.NDArray[np.float32]
    left: int
    top: int
    width: int
    height: int

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the frame."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)

    def places(self) -> npt.NDArray[np.float32]:
        """The patch pixel [height,width,2] that each pixel of the box shows, for cv2.remap."""
        places: npt.NDArray[np.float32] = cv2.resize(self.sources, (self.width, self.height))
        return places


class Face:
    """One persona's pictures, loaded and ready. Read-only after loading: share it between sessions."""

    def __init__(
        self,
        frames: list[Picture],
        atlas: MouthAtlas,
        resting_mouth: Picture,
        landings: list[Landing],
        fps: int,
    ) -> None:
        self._frames, self._atlas, self._landings = frames, atlas, landings
        self._resting_mouth = resting_mouth  # BGR and how far it hides the frame: [h,w,4]
        self.fps = fps
        self.frame_count = len(frames)
        self.height, self.width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]

    @classmethod
    def load(cls, directory: Path, width: int | None = None) -> Face:
        """Read a package, scaled to `width` pixels if given. About a second; holds 98 MB at 512 px.

        Raises FaceError when a file is missing or does not fit the others.
        """
        for name in ("persona.json", "idle.mp4", "mouth.webp", "face.npz"):
            if not (directory / name).is_file():
                raise FaceError(f"{directory / name} is missing; {REMAKE}")
        layout = _read_layout(directory / "persona.json")
        arrays = _read_arrays(directory / "face.npz", layout)
        size = (layout["width"], layout["height"])
        ratio = 1.0 if width is None else width / size[0]
        scaled = (2 * round(size[0] * ratio / 2), 2 * round(size[1] * ratio / 2))
        frames = _decode(directory / "idle.mp4", layout["idle_frames"], size, scaled)
        patches = _read_patches(directory / "mouth.webp", layout["mouth"])
        rest = _rest_index(arrays.shapes)
        differences = [_difference(patch, patches[rest], arrays.alpha) for patch in patches]
        resting_mouth = np.dstack([patches[rest], _lip_cover(differences)])
        scale = scaled[0] / size[0]
        landings = [
            _landing(_scaled(warp, scale), bend * scale, arrays.alpha.shape, scaled)
            for warp, bend in zip(arrays.warps, arrays.bends, strict=True)
        ]
        atlas = MouthAtlas(differences, arrays.shapes)
        return cls(frames, atlas, resting_mouth, landings, layout["fps"])

    def compose(self, loop_frame: int, mouth: MouthShape) -> Picture:
        """The idle frame with this mouth: BGR uint8 [height,width,3], a new array.

        `loop_frame` counts on without end and wraps around. At rest it is the idle frame exactly.
        """
        index = loop_frame % self.frame_count
        picture: Picture = cv2.cvtColor(self._frames[index], cv2.COLOR_YUV2BGR_I420)
        if mouth.is_rest:
            return picture
        landing = self._landings[index]
        places = landing.places()
        change = cv2.remap(self._atlas.difference(mouth), places, None, cv2.INTER_LINEAR)
        resting = cv2.remap(self._resting_mouth, places, None, cv2.INTER_LINEAR)
        picture[landing.box] = _lay_over(picture[landing.box], resting, change, _speaking(mouth))
        return picture


def _lay_over(frame: Picture, resting: Picture, change: Difference, amount: float) -> Picture:
    """Frame, faded by `amount` into the resting mouth where that covers it, plus the change."""
    cover = cv2.merge([resting[..., 3]] * 3)
    fade = cv2.subtract(resting[..., :3], frame, dtype=cv2.CV_16S)
    fade = cv2.multiply(fade, cover, scale=amount / 255, dtype=cv2.CV_16S)
    laid: Picture = cv2.add(frame, cv2.add(fade, change), dtype=cv2.CV_8U)
    return laid


def _speaking(mouth: MouthShape) -> float:
    """0 at rest, 1 once the mouth has clearly left it, smooth between."""
    moved = abs(mouth.jaw) + abs(mouth.width) + mouth.press + mouth.lip_teeth
    share = min(moved / SPEAKING, 1.0)
    return share * share * (3 - 2 * share)


def _interval(steps: list[float], value: float) -> tuple[int, float]:
    """Index of the step below `value` and the share of the way to the next; clamped to the ends."""
    index = min(max(bisect_right(steps, value) - 1, 0), len(steps) - 2)
    share = (value - steps[index]) / (steps[index + 1] - steps[index])
    return index, min(max(share, 0.0), 1.0)


def _mix(first: Difference, second: Difference, share: float) -> Difference:
    if share <= 0:
        return first
    if share >= 1:
        return second
    mixed: Difference = cv2.addWeighted(first, 1 - share, second, share, 0)
    return mixed


def _at_width(contacts: list[tuple[float, Difference]], width: float) -> Difference:
    if len(contacts) == 1:
        return contacts[0][1]
    index, share = _interval([w for w, _ in contacts], width)
    return _mix(contacts[index][1], contacts[index + 1][1], share)


def _read_layout(path: Path) -> dict[str, Any]:
    """The "face" section of persona.json, with its numbers checked for presence."""
    try:
        layout: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["face"]
        for key in ("width", "height", "fps", "idle_frames"):
            layout[key] = int(layout[key])
        for key in ("width", "height", "patches", "columns"):
            layout["mouth"][key] = int(layout["mouth"][key])
    except (ValueError, KeyError, TypeError) as error:
        raise FaceError(f'{path}: "face" is not as it should be ({error!r}); {REMAKE}') from error
    return layout


@dataclass(frozen=True)
class _Arrays:
    """What face.npz holds; see the top of this file."""

    alpha: Picture
    shapes: npt.NDArray[np.float32]
    warps: npt.NDArray[np.float32]
    bends: npt.NDArray[np.float32]


def _read_arrays(path: Path, layout: dict[str, Any]) -> _Arrays:
    """Read face.npz and check that its arrays fit the layout and each other."""
    mouth, count = layout["mouth"], layout["idle_frames"]
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("alpha", "shapes", "warps", "bends")}
    except (KeyError, ValueError, OSError) as error:
        raise FaceError(f"{path} cannot be read ({error}); {REMAKE}") from error
    expected = {
        "alpha": (mouth["height"], mouth["width"]),
        "shapes": (mouth["patches"], 4),
        "warps": (count, 2, 3),
        "bends": (count, *arrays["bends"].shape[1:3], 2),
    }
    for name, should_be in expected.items():
        if arrays[name].shape != should_be:
            raise FaceError(
                f"{path}: {name} is {arrays[name].shape} instead of {should_be}; {REMAKE}"
            )
    return _Arrays(
        arrays["alpha"],
        arrays["shapes"].astype(np.float32),
        arrays["warps"].astype(np.float32),
        arrays["bends"].astype(np.float32),
    )


def _decode(
    path: Path, count: int, size: tuple[int, int], scaled: tuple[int, int]
) -> list[Picture]:
    """All frames as planar I420 [h*3/2,w]: half the memory of BGR, and a fast conversion away from it."""
    frames: list[Picture] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if (frame.width, frame.height) != size:
                raise FaceError(
                    f"{path}: frames are {frame.width}x{frame.height}, not {size}; {REMAKE}"
                )
            small = frame.reformat(width=scaled[0], height=scaled[1], format="yuv420p")
            frames.append(small.to_ndarray())
    if len(frames) != count:
        raise FaceError(f"{path} has {len(frames)} frames instead of {count}; {REMAKE}")
    return frames


def _read_patches(path: Path, mouth: dict[str, int]) -> list[Picture]:
    """Cut the sheet into its patches, BGR [h,w,3] each."""
    sheet = cv2.imread(str(path), cv2.IMREAD_COLOR)
    height, width, columns = mouth["height"], mouth["width"], mouth["columns"]
    rows = -(-mouth["patches"] // columns)
    if sheet is None or sheet.shape != (rows * height, columns * width, 3):
        raise FaceError(
            f"{path}: not a sheet of {rows}x{columns} patches of {width}x{height}; {REMAKE}"
        )
    tiles = (
        sheet.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    )
    return list(tiles[: mouth["patches"]])


def _rest_index(shapes: npt.NDArray[np.float32]) -> int:
    at_rest = np.flatnonzero(~shapes.any(axis=1))
    if len(at_rest) != 1:
        raise FaceError(f"face.npz: {len(at_rest)} shapes at rest instead of one; {REMAKE}")
    return int(at_rest[0])


def _difference(patch: Picture, rest: Picture, alpha: Picture) -> Difference:
    weighted = (patch.astype(np.float32) - rest) * (alpha[..., None].astype(np.float32) / 255)
    return np.asarray(np.rint(weighted), np.int16)


def _lip_cover(differences: list[Difference]) -> Picture:
    """Where lips ever move, 0..255 [h,w], with soft edges: there the patch hides the frame."""
    strongest = np.max([np.abs(difference).max(2) for difference in differences], axis=0)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats((strongest > 80).astype(np.uint8))
    if len(boxes) < 2:
        return np.zeros(strongest.shape, np.uint8)
    # The largest spot but the background; a chin line or a stray hair is none of the lips.
    lips = np.argwhere(labels == 1 + boxes[1:, cv2.CC_STAT_AREA].argmax())[:, ::-1]
    cover = np.zeros(strongest.shape, np.uint8)
    cv2.fillConvexPoly(cover, cv2.convexHull(lips.astype(np.int32)), 255)
    cover = cv2.dilate(cover, np.ones((9, 9), np.uint8))
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), 4), np.uint8)


def _landing(
    warp: npt.NDArray[np.float64],
    bends: npt.NDArray[np.float32],
    patch: tuple[int, int],
    frame: tuple[int, int],
) -> Landing:
    """Turn the way from patch to frame around. `patch` is (height, width), `frame` (width, height)."""
    height, width = patch
    edges = [[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]]
    places = np.array(edges) @ warp.T
    rows, columns = bends.shape[:2]
    # Half a cell of margin, where the patch has faded out: cv2.resize is flat there.
    margin = np.ceil(np.ptp(places, axis=0) / (2 * np.array([columns, rows])))
    low = np.clip(np.floor(places.min(0) - margin).astype(int), 0, np.array(frame) - 1)
    high = np.clip(np.ceil(places.max(0) + margin).astype(int) + 1, low + 1, np.array(frame))
    box_width, box_height = (high - low).tolist()
    x = low[0] + (np.arange(columns) + 0.5) * box_width / columns - 0.5
    y = low[1] + (np.arange(rows) + 0.5) * box_height / rows - 0.5
    targets = np.stack(np.meshgrid(x, y), -1)
    back = np.linalg.inv(warp[:, :2])
    sources = (targets - warp[:, 2]) @ back.T
    for _ in range(2):  # the bend is known at the source: a fixed point, and bends are small
        cells = (sources + 0.5) * [columns / width, rows / height] - 0.5
        bend = cv2.remap(
            bends, cells.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        sources = (targets - bend - warp[:, 2]) @ back.T
    return Landing(sources.astype(np.float32), int(low[0]), int(low[1]), box_width, box_height)


def _scaled(warp: npt.NDArray[np.float32], ratio: float) -> npt.NDArray[np.float64]:
    """The affine into a frame of another size; pixel middles lie at whole numbers, hence the halves."""
    affine = warp.astype(np.float64) * ratio
    affine[:, 2] += (ratio - 1) / 2
    return affine
