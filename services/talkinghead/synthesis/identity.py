"""Stage 1: who he is. One synthetic head from the anny body model, as plain arrays.

anny (Apache-2.0, data CC0) is a parametric human: phenotypes and local changes give a face that
belongs to nobody, and 52 named facial actions move it. This is the only stage that needs anny and
torch; everything after it reads the npz file written here.

Coordinates are metres, x to the person's left, y backwards (the face looks along -y), z up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anny
import anny.paths
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

Array = npt.NDArray[np.floating[Any]]

# Local changes that make caricatures or fight the facial actions are left alone.
FACE_REGIONS = ("cheek", "chin", "ear", "eye", "forehead", "head", "mouth", "nose")
UNSAFE_CHANGES = (
    *("trans-out", "trans-forward", "head-age", "head-fat", "cleft", "prognath", "triangle"),
    *("dimples", "ear-wing", "ear-rot", "mouth-angles", "nose-compression", "head-angle"),
)
TEXTURE_MASKS = ("lips", "inside-mouth", "eyelids", "ears")


@dataclass(frozen=True)
class Identity:
    """What anny needs to make one person. `variation` is the spread of the random local changes."""

    seed: int
    phenotypes: Mapping[str, float]
    variation: float = 0.16
    local_changes: Mapping[str, float] = field(default_factory=dict)


# anny's age scale: 0.67 is a young adult, 1.0 an old one. Below 0.67 is a minor: never go there.
THEO = Identity(
    seed=17,
    phenotypes={
        "gender": 0.92,
        "age": 0.74,
        "muscle": 0.55,
        "weight": 0.45,
        "height": 0.5,
        "proportions": 0.8,
        "cupsize": 0.5,
        "firmness": 0.5,
        "african": 0.12,
        "asian": 0.10,
        "caucasian": 0.78,
    },
    variation=0.14,
    # Smaller, plainer ears than the draw gives, and a slightly narrower jaw.
    local_changes={
        "l-ear-scale-incr": -0.30,
        "l-ear-scale-vert-incr": -0.25,
        "l-ear-lobe-incr": 0.15,
        "l-ear-flap-incr": 0.0,
        "l-ear-shape-round": 0.3,
        "chin-width-incr": -0.15,
    },
)


def local_changes(identity: Identity, labels: list[str]) -> dict[str, float]:
    """Draw symmetric local changes of the face, then lay the chosen ones over them."""
    rng = np.random.default_rng(identity.seed)
    changes: dict[str, float] = {}
    for label in labels:
        region = label.removeprefix("l-")
        if not region.startswith(FACE_REGIONS) or any(word in label for word in UNSAFE_CHANGES):
            continue
        changes[label] = float(np.clip(rng.normal(0.0, identity.variation), -0.5, 0.5))
    changes.update(identity.local_changes)
    mirrored = {f"r-{k[2:]}": v for k, v in changes.items() if k.startswith("l-")}
    return {**changes, **mirrored}


def read_base_mesh() -> dict[str, npt.NDArray[np.generic]]:
    """Read the quads of anny's base mesh: faces, texture corners, and the named group of each."""
    faces: list[list[int]] = []
    corners: list[list[int]] = []
    groups: list[str] = []
    uv: list[list[float]] = []
    for kind, fields, group in _obj_lines(_data_dir() / "3dobjs" / "base.obj"):
        if kind == "vt":
            uv.append([float(x) for x in fields[:2]])
        elif kind == "f" and len(fields) == 4 and not group.startswith("joint"):
            pairs = [corner.split("/") for corner in fields]
            faces.append([int(pair[0]) - 1 for pair in pairs])
            corners.append([int(pair[1]) - 1 for pair in pairs])
            groups.append(group)
    return {
        "faces": np.array(faces, np.int32),
        "face_corners": np.array(corners, np.int32),
        "face_groups": np.array(groups),
        "uv": np.array(uv, np.float32),
    }


def make_identity(identity: Identity, out: Path, model: anny.Anny | None = None) -> None:
    """Write one person to `out` (npz): neutral vertices [V,3], facial action deltas [A,V,3],
    the base mesh, and the texture masks. Takes about a minute, most of it loading anny."""
    if identity.phenotypes["age"] < 0.67:
        raise ValueError("anny's age must be 0.67 or more: a persona is an adult")
    torch.set_grad_enabled(False)
    model = model or load_model()
    changes = local_changes(identity, list(model.local_change_labels))
    neutral = _vertices(model, identity, changes, None)
    deltas = [
        _vertices(model, identity, changes, action) - neutral
        for action in model.facial_action_labels
    ]
    masks = {f"mask_{name}": _read_mask(name) for name in TEXTURE_MASKS}
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        out,
        allow_pickle=False,
        vertices=neutral,
        action_deltas=np.stack(deltas),
        action_names=np.array(model.facial_action_labels),
        recipe=json.dumps({"seed": identity.seed, **identity.phenotypes}),
        **read_base_mesh(),
        **masks,
    )


def load_model() -> anny.Anny:
    """Load anny with every phenotype, local change and facial action, on MakeHuman's topology."""
    # The "smplx" topology would fetch data under a non-commercial licence: never use it here.
    return anny.Anny(
        topology="makehuman", local_changes="all", facial_actions="all", phenotypes="all"
    ).float()


def _vertices(
    model: anny.Anny, identity: Identity, changes: Mapping[str, float], action: str | None
) -> Array:
    rest_pose = torch.eye(4)[None, None].repeat(1, model.bone_count, 1, 1)
    output = model(
        pose_parameters=rest_pose,
        phenotype_kwargs={k: torch.tensor([v]) for k, v in identity.phenotypes.items()},
        local_changes_kwargs={k: torch.tensor([v]) for k, v in changes.items()},
        facial_actions={action: torch.tensor([1.0])} if action else {},
    )
    vertices: Array = output["vertices"][0].numpy().astype(np.float32)
    return vertices


def _data_dir() -> Path:
    return Path(anny.paths.get_anny_root_dir()) / "data" / "mpfb2"


def _read_mask(name: str) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(_data_dir() / "textures" / f"mpfb_{name}.jpg").convert("L"))


def _obj_lines(path: Path) -> Iterator[tuple[str, list[str], str]]:
    group = ""
    for line in path.read_text().splitlines():
        kind, *fields = line.split() or [""]
        if kind == "g":
            group = fields[0]
        else:
            yield kind, fields, group
