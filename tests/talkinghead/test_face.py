"""The default persona's face, as it ships: real pictures, real assertions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from services.talkinghead.face import Face, FaceError
from services.talkinghead.visemes import REST, MouthShape

PACKAGE = Path(__file__).parents[2] / "visavis" / "personas" / "theo"
FRAMES = (0, 60, 190)


@pytest.fixture(scope="module")
def face() -> Face:
    return Face.load(PACKAGE)


def mouth_box(face: Face, index: int) -> tuple[slice, slice]:
    """Rows and columns of the frame that a mouth changes at all."""
    base = face.compose(index, REST).astype(int)
    wide = face.compose(index, MouthShape(jaw=1.0)).astype(int)
    rows, columns = np.nonzero(np.abs(wide - base).max(2) > 24)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def darkness(face: Face, mouth: MouthShape, index: int = 0) -> int:
    """Number of nearly black pixels where the mouth opens."""
    box = mouth_box(face, index)
    return int((face.compose(index, mouth)[box].max(2) < 40).sum())


def test_package_is_small_and_complete() -> None:
    assert sum(file.stat().st_size for file in PACKAGE.iterdir()) < 8_000_000
    persona = json.loads((PACKAGE / "persona.json").read_text(encoding="utf-8"))
    assert persona["id"] == PACKAGE.name
    assert {
        "name",
        "language",
        "voices",
        "greeting",
        "prompt",
        "licence",
        "origin",
    } <= persona.keys()
    assert (PACKAGE / "poster.jpg").is_file()
    assert (PACKAGE / "idle.webm").is_file()


def test_frames_have_the_promised_form(face: Face) -> None:
    persona = json.loads((PACKAGE / "persona.json").read_text(encoding="utf-8"))["face"]
    assert (face.width, face.height, face.fps) == (
        persona["width"],
        persona["height"],
        persona["fps"],
    )
    assert face.frame_count == persona["idle_frames"]
    picture = face.compose(0, MouthShape(jaw=0.5))
    assert picture.shape == (face.height, face.width, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("index", FRAMES)
def test_mouth_at_rest_is_the_idle_frame_exactly(face: Face, index: int) -> None:
    base = face.compose(index, REST)
    assert np.array_equal(face.compose(index, MouthShape()), base)
    # And coming to rest is continuous: no jump from the last nearly closed mouth.
    almost = face.compose(index, MouthShape(jaw=0.001)).astype(int)
    assert np.abs(almost - base).max() <= 4


@pytest.mark.parametrize("index", FRAMES)
def test_only_the_mouth_region_differs(face: Face, index: int) -> None:
    base = face.compose(index, REST).astype(int)
    for mouth in (MouthShape(jaw=1.0), MouthShape(width=-1.0), MouthShape(width=1.0, jaw=0.6)):
        change = np.abs(face.compose(index, mouth).astype(int) - base).max(2)
        rows, columns = np.nonzero(change)
        assert rows.min() > 0.40 * face.height and rows.max() < 0.90 * face.height
        assert columns.min() > 0.20 * face.width and columns.max() < 0.80 * face.width
        assert change[: int(0.40 * face.height)].max() == 0


def test_mouth_darkens_monotonically_as_the_jaw_opens(face: Face) -> None:
    dark = [darkness(face, MouthShape(jaw=jaw)) for jaw in (0.0, 0.4, 0.7, 1.0)]
    assert dark == sorted(dark)
    assert dark[-1] > dark[0] + 200


def test_pressed_lips_hide_the_inside_of_an_open_mouth(face: Face) -> None:
    assert darkness(face, MouthShape(jaw=0.8, press=1.0)) < darkness(face, MouthShape(jaw=0.8)) / 4


def test_rounding_narrows_the_opening(face: Face) -> None:
    def opening_width(width: float) -> int:
        base = face.compose(0, MouthShape(width=width)).astype(int)
        open_ = face.compose(0, MouthShape(jaw=0.6, width=width)).astype(int)
        columns = np.nonzero((open_ - base).min(2) < -60)[1]
        return int(np.quantile(columns, 0.95) - np.quantile(columns, 0.05))

    assert opening_width(-1.0) < 0.8 * opening_width(1.0)


def test_loop_wraps_around_without_a_jump(face: Face) -> None:
    frames = [
        face.compose(i, REST).astype(float)
        for i in range(face.frame_count - 4, face.frame_count + 4)
    ]
    steps = [float(np.abs(b - a).mean()) for a, b in zip(frames, frames[1:], strict=False)]
    # A key frame differs from the frame before it by a little coding noise, less than one grey level.
    assert steps[3] < 1.0
    assert np.array_equal(face.compose(face.frame_count, REST), face.compose(0, REST))


def test_mouth_follows_the_head(face: Face) -> None:
    """The patch moves with the frame: the darkest spot shifts as the loop's own mouth does."""
    centres = []
    for index in range(0, face.frame_count, 10):
        box = mouth_box(face, index)
        centres.append(((box[0].start + box[0].stop) / 2, (box[1].start + box[1].stop) / 2))
    assert np.ptp(np.array(centres), axis=0).max() > 2


def test_frames_can_be_had_smaller(face: Face) -> None:
    small = Face.load(PACKAGE, width=256)
    assert (small.width, small.height) == (256, 256)
    assert np.array_equal(small.compose(5, REST), small.compose(5, MouthShape()))
    large = face.compose(5, MouthShape(jaw=1.0)).reshape(256, 2, 256, 2, 3).mean((1, 3))
    assert np.abs(small.compose(5, MouthShape(jaw=1.0)) - large).mean() < 2.5


@pytest.mark.parametrize("name", ["persona.json", "idle.mp4", "mouth.webp", "face.npz"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(PACKAGE, broken)
    (broken / name).unlink()
    with pytest.raises(FaceError, match=name):
        Face.load(broken)


def test_arrays_of_wrong_shape_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(PACKAGE, broken)
    with np.load(PACKAGE / "face.npz") as arrays:
        changed = {**arrays, "warps": arrays["warps"][:10]}
    np.savez(broken / "face.npz", **changed)
    with pytest.raises(FaceError, match="warps"):
        Face.load(broken)


def test_description_without_a_face_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(PACKAGE, broken)
    (broken / "persona.json").write_text('{"id": "theo"}', encoding="utf-8")
    with pytest.raises(FaceError, match="face"):
        Face.load(broken)
