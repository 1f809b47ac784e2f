"""Files that are made from a downloaded one.

Each recipe takes one file of the same model and writes a new one, byte for byte the same on every machine, so that
the manifest can give its hash too. The original is never touched.

The two ONNX recipes append to the file. A protobuf message may be written in pieces: when a reader meets the
`graph` field a second time it merges it into the first, so a model plus a few bytes that say "graph: one more
output" is the model with one more output. Needs no `onnx`, no 100 MB in memory and no re-serialising.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Recipe = Callable[[Path, Path, Sequence[str]], None]

# Field numbers of onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_OUTPUT = 1, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_I, ATTRIBUTE_TYPE = 1, 3, 20
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR, TENSOR_ELEM_TYPE, TENSOR_SHAPE = 1, 1, 2
SHAPE_DIM, DIM_PARAM = 1, 2
ATTRIBUTE_TYPE_INT, ELEM_TYPE_INT64 = 2, 7

# The tensor of VITS that holds, per phoneme, the number of frames: the only Ceil of the graph.
PIPER_DURATIONS = b"/Ceil_output_0"
KOKORO_DURATIONS = b"/encoder/Clip_output_0"
# One style vector of 256 per phoneme count, 510 counts.
KOKORO_STYLE_SHAPE = (510, 1, 256)


def piper_alignment(source: Path, target: Path, names: Sequence[str]) -> None:
    """The voice with its phoneme durations as a second output (what `include_alignments` reads)."""
    output = _message(VALUE_NAME, PIPER_DURATIONS)
    _append(source, target, _message(MODEL_GRAPH, _message(GRAPH_OUTPUT, output)))


def kokoro_duration(source: Path, target: Path, names: Sequence[str]) -> None:
    """The model with an int64 output `duration` (what `create_timed` looks for)."""
    attribute = (
        _message(ATTRIBUTE_NAME, b"to")
        + _number(ATTRIBUTE_I, ELEM_TYPE_INT64)
        + _number(ATTRIBUTE_TYPE, ATTRIBUTE_TYPE_INT)
    )
    node = (
        _message(NODE_INPUT, KOKORO_DURATIONS)
        + _message(NODE_OUTPUT, b"duration")
        + _message(NODE_NAME, b"duration_cast")
        + _message(NODE_OP_TYPE, b"Cast")
        + _message(NODE_ATTRIBUTE, attribute)
    )
    shape = _message(SHAPE_DIM, _message(DIM_PARAM, b"duration_length"))
    tensor = _number(TENSOR_ELEM_TYPE, ELEM_TYPE_INT64) + _message(TENSOR_SHAPE, shape)
    output = _message(VALUE_NAME, b"duration") + _message(VALUE_TYPE, _message(TYPE_TENSOR, tensor))
    graph = _message(GRAPH_NODE, node) + _message(GRAPH_OUTPUT, output)
    _append(source, target, _message(MODEL_GRAPH, graph))


def kokoro_voices(source: Path, target: Path, names: Sequence[str]) -> None:
    """Voices that lie one after another in `source`, as an npz with one array per name."""
    styles = np.fromfile(source, dtype="<f4").reshape(len(names), *KOKORO_STYLE_SHAPE)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, style in zip(names, styles, strict=True):
            # np.savez would do, but for the fields that depend on the system it runs on.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.create_system = 3
            with archive.open(entry, "w") as member:
                np.lib.format.write_array(member, style, version=(1, 0))


RECIPES: dict[str, Recipe] = {
    "piper-alignment": piper_alignment,
    "kokoro-duration": kokoro_duration,
    "kokoro-voices": kokoro_voices,
}


def _append(source: Path, target: Path, tail: bytes) -> None:
    shutil.copyfile(source, target)
    with target.open("ab") as file:
        file.write(tail)


def _message(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
