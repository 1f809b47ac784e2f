"""Hair of the head, brows and lashes, as strands: arrays [S,P,3] of points from root to tip.

"Face coordinates" are metres from the middle of the eyes, scaled to the reference head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from services.talkinghead.synthesis.head import Array, Head, Indices, smoothstep

BROW_WIDTH_M = 0.0050
BROW_HAIRS = 470
STRAND_STEPS = 10


@dataclass(frozen=True)
class Strands:
    """Hairs [S,P,3] that ride on vertices of a part: `roots` [S] are the vertices they follow."""

    points: Array
    roots: Indices


@dataclass(frozen=True)
class Skin:
    """The neutral skin that hair grows on: vertices, normals and face coordinates, each [N,3]."""

    head: Head
    rest: Array
    normals: Array
    face_xyz: Array


def noise(points: Array, frequency: float, seed: int, octaves: int = 5) -> Array:
    """Cheap smooth noise [N] of about unit size: a sum of random plane waves (cycles per metre)."""
    rng = np.random.default_rng(seed)
    total = np.zeros(len(points))
    for octave in range(octaves):
        for _ in range(4):
            wave = rng.normal(size=3) * frequency * 1.6**octave
            total += np.sin(points @ wave + rng.uniform(0, 2 * np.pi)) * 0.8**octave
    return np.asarray(0.6 * total / np.sqrt(2 * octaves), np.float32)


def unit(vectors: npt.ArrayLike) -> Array:
    """Vectors [...,3] made one long."""
    array = np.asarray(vectors, np.float32)
    return np.asarray(array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12))


# Brows ----------------------------------------------------------------------------------------


def brow_line(u: Array) -> tuple[Array, Array]:
    """Middle of the left brow in face coordinates (x, z), u from 0 at the nose to 1 outside."""
    rise = 0.0058 * np.sin(np.clip(u * 1.25, 0, 1.25) * 1.9) - 0.012 * np.clip(u - 0.75, 0, 1)
    return 0.012 + 0.042 * u, 0.0190 + rise


def grow_brows(skin: Skin) -> Strands:
    """Both brows: upright at the nose, lying outwards further on."""
    rng = np.random.default_rng(5)
    both = [_one_brow(skin, side, rng) for side in (1, -1)]
    return Strands(
        np.concatenate([b.points for b in both]), np.concatenate([b.roots for b in both])
    )


def brow_shade(skin: Skin) -> Array:
    """1 on the skin under the brows, 0 elsewhere."""
    x, y, z = skin.face_xyz.T
    u = np.linspace(0, 1, 60)
    line_x, line_z = brow_line(u)
    width = BROW_WIDTH_M * 0.84 * (1.15 - 0.6 * u)
    distance = np.hypot(np.abs(x)[:, None] - line_x, z[:, None] - line_z) / width
    facing = (skin.normals[:, 1] < -0.2) & (y < 0.02)
    return np.asarray(np.exp(-(distance.min(1) ** 2)) * facing, np.float32)


def _one_brow(skin: Skin, side: int, rng: np.random.Generator) -> Strands:
    scale = skin.head.scale
    u: Array = rng.random(BROW_HAIRS) ** 0.9
    x, z = brow_line(u)
    taper = (1 - 0.70 * smoothstep(0.50, 1, u)) * (0.55 + 0.45 * smoothstep(0, 0.15, u))
    width: Array = BROW_WIDTH_M * taper
    z = z + width * np.clip(rng.normal(0, 0.55, BROW_HAIRS), -1.1, 1.1)
    start, root = _place_on_front(skin, side * x, z)
    normal = skin.normals[root]
    upright: Array = 0.95 * (1 - smoothstep(0, 0.45, u)) + 0.25 * (1 - u) - 0.15
    rise: Array = upright + rng.normal(0, 0.16, BROW_HAIRS)
    along: Array = np.stack([np.full_like(rise, side), np.zeros_like(rise), rise], 1)
    along = unit(along - normal * (along * normal).sum(1, keepdims=True))
    t: Array = np.linspace(0, 1, 5)[None, :, None]
    length: Array = 0.0078 * (1 - 0.35 * u) * rng.uniform(0.6, 1.1, BROW_HAIRS) * scale
    lift = (0.0009 * t - 0.0006 * t * t) * scale
    points = start[:, None] + along[:, None] * length[:, None, None] * t + normal[:, None] * lift
    return Strands(points.astype(np.float32), root)


def _place_on_front(skin: Skin, x: Array, z: Array) -> tuple[Array, Indices]:
    """Points of the skin [N,3] that show at (x, z) from the front, and the vertices nearest to them."""
    high = np.abs(skin.face_xyz[:, 2] - 0.03) < 0.03
    facing = np.flatnonzero((skin.normals[:, 1] < -0.2) & high)
    root = facing[cKDTree(skin.face_xyz[facing][:, [0, 2]]).query(np.c_[x, z])[1]]
    place = np.stack([x, np.zeros_like(x), z], 1) * skin.head.scale + skin.head.eye_centre
    offset, normal = place - skin.rest[root], skin.normals[root]
    # Stay in the plane of the skin at that vertex.
    offset[:, 1] = -(normal[:, 0] * offset[:, 0] + normal[:, 2] * offset[:, 2]) / normal[:, 1]
    return skin.rest[root] + offset, root


# Lashes ---------------------------------------------------------------------------------------


def grow_lashes(head: Head) -> Strands:
    """Short, separate lashes along the lid edges. The helper mesh of the lashes starts inside the
    eyeball; its lines pass the lid edge at about 1.08 eyeball radii."""
    rng = np.random.default_rng(3)
    rest, scale = head.lashes.positions(head.vertices), head.scale
    points, roots = [], []
    for ball, outside in zip(head.eyeballs, (1, -1), strict=True):
        from_eye = (rest - ball.centre) / scale
        edge = np.abs(np.linalg.norm(from_eye, axis=1) - 1.08 * ball.radius_m / scale) < 0.0006
        edge &= np.abs(from_eye[:, 0]) < 0.0150
        is_upper = from_eye[:, 2] > -0.0017
        for upper, count in ((True, 150), (False, 60)):
            root = rng.choice(np.flatnonzero(edge & (is_upper == upper)), count)
            strands = scale * _lash_curves(from_eye[root, 0] / 0.015, outside, upper, rng)
            points.append(rest[root][:, None] + strands)
            roots.append(root)
    return Strands(np.concatenate(points).astype(np.float32), np.concatenate(roots))


def _lash_curves(across: Array, outside: int, upper: bool, rng: np.random.Generator) -> Array:
    """Lashes [S,5,3] from the origin, fanned by their place `across` the eye (-1 .. 1), in metres."""
    count = len(across)
    rise = (-0.05 if upper else -0.25) + 0.12 * rng.random(count)
    fan = 0.55 * across + rng.normal(0, 0.10, count)
    along = unit(np.stack([fan, np.full(count, -1.0), rise], 1))
    jitter = rng.normal(0, 0.0004, (count, 1, 1)) * np.array([1.0, 0, 0])
    length = (0.0066 if upper else 0.0034) * rng.uniform(0.7, 1.1, count)
    length = length * (0.8 + 0.35 * np.clip(across * outside, 0, 1))
    t = np.linspace(0, 1, 5)[None, :, None]
    curl = np.array([0, 0, 0.45 if upper else -0.1]) * t * t
    return np.asarray(jitter + (along[:, None] * t + curl) * length[:, None, None])


# Head -----------------------------------------------------------------------------------------


def grow_head_hair(skin: Skin, scalp: Array, count: int) -> Array:
    """Short hair [S,P,3] where `scalp` [N] says: lying sides, a longer top swept aside, loose locks."""
    rng = np.random.default_rng(9)
    root, normal = _scatter(skin, scalp, count, rng)
    origin = (root - skin.head.eye_centre) / skin.head.scale
    top = smoothstep(0.055, 0.085, origin[:, 2] + 0.15 * np.clip(-origin[:, 1], -0.1, 0.02))
    front = smoothstep(0.03, -0.03, origin[:, 1])
    length = (0.011 + top * (0.020 + 0.012 * front)) * rng.uniform(0.75, 1.1, count)
    comb = _comb_direction(origin, top, front)
    comb += 0.25 * np.stack([noise(origin, 55, 31 + i, 3) for i in range(3)], 1)
    comb += rng.normal(0, 0.08, comb.shape)
    step_m = (length / STRAND_STEPS * skin.head.scale)[:, None]
    lift = (0.35 + top * (0.45 + 0.45 * front))[:, None]
    points, position = [root], root
    surface = cKDTree(skin.rest)
    for step in range(1, STRAND_STEPS + 1):
        t = step / STRAND_STEPS
        # Along the scalp, or hair combed sideways would fly off where the head curves away.
        along = unit(comb - normal * (comb * normal).sum(1, keepdims=True))
        position = position + step_m * unit(along + normal * lift * 1.6 * (1 - t) ** 1.3)
        position, normal = _keep_outside(skin, surface, position, 0.0010 + 0.006 * t * top)
        points.append(position)
    return _clump(np.stack(points, 1), rng, amount=0.55).astype(np.float32)


def _scatter(skin: Skin, scalp: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Random roots on the scalp, even by area, and the normals there."""
    quads = skin.head.skin.quads
    corners = skin.rest[quads]
    across = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    density = scalp[quads].mean(1)
    # Thin out softly at the hairline, or it looks like a cap.
    weight = np.linalg.norm(across, axis=1) * np.where(density > 0.12, density, 0)
    chosen = rng.choice(len(quads), count, p=weight / weight.sum())
    s, t = rng.random((2, count, 1))
    blend = np.concatenate([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], 1)[..., None]
    root = (skin.rest[quads[chosen]] * blend).sum(1)
    return root.astype(np.float32), unit((skin.normals[quads[chosen]] * blend).sum(1))


def _comb_direction(origin: Array, top: Array, front: Array) -> Array:
    # Swept to his left; only the low right side turns down, gradually, so no ridge shows.
    sweep = 1.0 - 1.6 * smoothstep(-0.030, -0.062, origin[:, 0])
    on_top = np.stack([0.75 * sweep, 0.50 - 0.20 * front, -0.10 + 0.25 * front], 1)
    on_side = np.tile(np.array([0.0, 0.35, -1.0]), (len(origin), 1))
    on_side[:, 0] = 0.1 * np.sign(origin[:, 0])
    return np.asarray(on_side + (on_top - on_side) * top[:, None], np.float32)


def _keep_outside(
    skin: Skin, surface: cKDTree, position: Array, clearance_m: Array
) -> tuple[Array, Array]:
    """Push points [N,3] out to `clearance_m` above the skin; also the skin's normals there."""
    nearest = surface.query(position)[1]
    normal = skin.normals[nearest]
    height = ((position - skin.rest[nearest]) * normal).sum(1)
    push = np.maximum(clearance_m * skin.head.scale - height, 0)
    return np.asarray(position + normal * push[:, None], np.float32), normal


def _clump(strands: Array, rng: np.random.Generator, amount: float) -> Array:
    """Pull every strand's tip towards a nearby guide strand, so that locks form."""
    guides = rng.choice(len(strands), len(strands) // 28, replace=False)
    mine = guides[cKDTree(strands[guides, 0]).query(strands[:, 0])[1]]
    t = np.linspace(0, 1, strands.shape[1])[None, :, None] ** 1.5
    pull = amount * rng.uniform(0.3, 1.0, (len(strands), 1, 1))
    return np.asarray(strands + (strands[mine] - strands) * t * pull)
