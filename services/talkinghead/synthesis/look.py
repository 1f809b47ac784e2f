"""Stage 3: how he looks. Skin paint, eyes, hair, brows, lashes and clothes for a `Head`.

Colours are painted per vertex for regions (lips, cheeks, stubble); pores and freckles are noise in
the renderer's shader, which needs the rest position of every skin vertex. Hair is strands: [S,P,3].

"Face coordinates" are metres from the middle of the eyes, scaled to the reference head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from services.talkinghead.synthesis.head import (
    Array,
    Eyeball,
    Head,
    Indices,
    Surface,
    dental_arches,
    grid_quads,
    smoothstep,
)

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """Colours (painted, 0..1) and amounts of one person's appearance."""

    skin: Colour = (0.80, 0.56, 0.44)
    lips: Colour = (0.66, 0.36, 0.33)
    hair: Colour = (0.040, 0.024, 0.015)
    iris: Colour = (0.23, 0.15, 0.095)
    cloth: Colour = (0.055, 0.105, 0.165)
    stubble: float = 0.30
    strands: int = 22000


@dataclass(frozen=True)
class Strands:
    """Hairs [S,P,3] that ride on vertices of a part: `roots` [S] are the vertices they follow."""

    points: Array
    roots: Indices


def noise(points: Array, frequency: float, seed: int, octaves: int = 5) -> Array:
    """Cheap smooth noise [N] of about unit size: a sum of random plane waves (cycles per metre)."""
    rng = np.random.default_rng(seed)
    total = np.zeros(len(points))
    for octave in range(octaves):
        for _ in range(4):
            wave = rng.normal(size=3) * frequency * 1.6**octave
            total += np.sin(points @ wave + rng.uniform(0, 2 * np.pi)) * 0.8**octave
    return (0.6 * total / np.sqrt(2 * octaves)).astype(np.float32)


class Appearance:
    """Everything about a head that does not move: paint, masks and strands on the neutral face."""

    def __init__(self, head: Head, look: Look) -> None:
        self.head, self.look = head, look
        self.rest = head.skin.positions(head.vertices)
        self.normals = head.skin.normals(self.rest)
        self.face_xyz: Array = (self.rest - head.eye_centre) / np.float32(head.scale)
        self.lips = self._mask("lips")
        self.mouth_inside = self._mask("inside-mouth")
        self.eyelids = self._mask("eyelids")
        self.ears = self._mask("ears")
        self.scalp = self._scalp()
        self.beard = self._beard()
        self.brow_hairs, self.brow_shade = self._brows()
        self.head_hair = self._head_hair()
        self.lash_hairs = self._lashes()
        self.teeth, self._lower_teeth = dental_arches(head, self._lip_line())

    # Paint ------------------------------------------------------------------------------------

    def skin_colours(self) -> Array:
        """Painted skin [N,3], 0..1."""
        x, y, z = self.face_xyz.T
        front = smoothstep(0.02, -0.03, y)
        colour = np.repeat(np.array([self.look.skin]), len(x), 0)
        colour *= (1 + 0.022 * noise(self.face_xyz, 60, 1) + 0.02 * noise(self.face_xyz, 300, 2))[
            :, None
        ]
        cheeks = _blob(np.abs(x), 0.043, 0.022) * _blob(z, -0.040, 0.020) * front
        nose = _blob(x, 0, 0.016) * _blob(z, -0.040, 0.016) * _blob(y, -0.035, 0.02)
        redness = np.clip(0.42 * cheeks + 0.40 * nose + 0.5 * self.ears, 0, 1)[:, None]
        colour *= 1 - redness * np.array([0.03, 0.18, 0.18])
        sockets = _blob(np.abs(x), 0.031, 0.019) * _blob(z, -0.006, 0.013) * front
        colour *= 1 - sockets[:, None] * np.array([0.10, 0.13, 0.10])
        colour *= 1 - np.clip(self.eyelids, 0, 1)[:, None] * np.array([0.06, 0.11, 0.10])
        colour *= 1 - self.look.stubble * self.beard[:, None] * np.array([1.0, 0.86, 0.74])
        colour = _paint(colour, 0.7 * self.scalp, np.array(self.look.hair) * 1.3)
        colour *= 1 - 0.30 * self.brow_shade[:, None]
        lips = np.array(self.look.lips) * (1 + 0.05 * noise(self.face_xyz, 300, 3))[:, None]
        colour = _paint(colour, 0.85 * self.lips, lips)
        colour = _paint(colour, self.mouth_inside, np.array([0.30, 0.08, 0.075]))
        return np.clip(colour, 0, 1).astype(np.float32)

    def skin_masks(self) -> Array:
        """Lips, inside of the mouth, beard: [N,3], 0..1, for the shader."""
        return np.stack([self.lips, self.mouth_inside, self.beard], 1).astype(np.float32)

    def eyes(self, target: Array) -> list[Surface]:
        """Two eyeballs that look at `target` [3], iris painted."""
        return [_eyeball(ball, target, self.look.iris) for ball in self.head.eyeballs]

    def moving_parts(self, actions: Mapping[str, float]) -> dict[str, Array]:
        """Vertices of everything that facial actions move, by the name of its object."""
        head = self.head
        moved = head.with_actions(actions)
        skin = head.skin.positions(moved)
        turn, shift = _rigid_motion(head.vertices[head.lower_jaw_ids], moved[head.lower_jaw_ids])
        lower_teeth = self.teeth.vertices @ turn.T + shift
        lash_shift = head.lashes.positions(moved) - head.lashes.positions(head.vertices)
        return {
            "skin": skin,
            "tongue": head.tongue.positions(moved),
            "teeth": np.where(self._lower_teeth[:, None], lower_teeth, self.teeth.vertices),
            "brows": self.brow_hairs.points + (skin - self.rest)[self.brow_hairs.roots][:, None],
            "lashes": self.lash_hairs.points + lash_shift[self.lash_hairs.roots][:, None],
        }

    def cloth(self) -> tuple[Array, Array]:
        """Vertices [N,3] of a crew-neck jumper, and the distance [N] in metres below its neckline."""
        head, scale = self.head, self.head.scale
        body = head.cloth.positions(head.vertices)
        # Knitwear lies smoothly over collar bones.
        smooth = head.cloth.blur(body, 12)
        y, z = ((body - head.eye_centre) / scale)[:, 1:].T
        below = (-0.176 + 0.55 * np.clip(y, -0.03, 0.12) - z).astype(np.float32)
        collar = np.exp(-(((below - 0.009) / 0.007) ** 2))
        thickness = (0.0030 + 0.0040 * smoothstep(0.01, 0.05, below) + 0.0022 * collar) * scale
        keep = smoothstep(0.0, 0.03, below)[:, None]
        lifted = body + (smooth - body) * keep + head.cloth.normals(body) * thickness[:, None]
        return lifted.astype(np.float32), below

    # Masks ------------------------------------------------------------------------------------

    def _mask(self, name: str) -> Array:
        image = self.head.masks[name].astype(np.float32) / 255
        height, width = image.shape
        u, v = self.head.skin.uv.T
        rows = np.clip(((1 - v) * height).astype(int), 0, height - 1)
        columns = np.clip((u * width).astype(int), 0, width - 1)
        return np.clip(self.head.skin.blur(image[rows, columns], 2), 0, 1)

    def _scalp(self) -> Array:
        """1 where hair grows. The hairline is a curve over depth, with receding temples."""
        x, y, z = self.face_xyz.T
        depth = [-0.06, -0.03, -0.012, 0.002, 0.020, 0.032, 0.05, 0.062, 0.09, 0.14, 0.2]
        line = [0.066, 0.066, 0.062, 0.040, 0.024, -0.022, -0.024, 0.010, -0.03, -0.06, -0.07]
        hairline = np.interp(y, depth, line)
        temples = np.exp(-(((np.abs(x) - 0.046) / 0.016) ** 2)) * smoothstep(0.03, -0.01, y)
        hairline = hairline + 0.010 * temples + 0.0025 * noise(self.face_xyz, 130, 4, 3)
        above = smoothstep(-0.006, 0.008, z - hairline)
        return np.asarray(above * (self.ears < 0.3) * (z > -0.09), np.float32)

    def _beard(self) -> Array:
        """1 where stubble grows: jaw, chin, upper lip; thin on the cheeks, none on the lips."""
        x, y, z = self.face_xyz.T
        jaw = smoothstep(-0.052, -0.088, z)
        moustache = 0.9 * _blob(x, 0, 0.028) * _blob(z, -0.058, 0.011) * smoothstep(-0.02, -0.04, y)
        side = _blob(y, 0.025, 0.020) * smoothstep(-0.01, -0.04, z)
        area = np.clip(np.maximum(np.maximum(jaw, moustache), 0.8 * side), 0, 1)
        area *= smoothstep(0.065, 0.035, y) * smoothstep(-0.150, -0.120, z)
        area *= np.clip(1 - 2.0 * self.lips, 0, 1) * (1 - np.clip(2 * self.ears, 0, 1))
        return self.head.skin.blur(area.astype(np.float32), 2)

    def _lip_line(self) -> Array:
        """Middle of the closed lips [3]: height of the mouth corners, depth of the lips' front."""
        lips = self.rest[self.lips > 0.5]
        away = np.abs(lips[:, 0] - self.head.eye_centre[0])
        corner_z = np.median(lips[away > np.quantile(away, 0.96), 2])
        front_y = lips[away < 0.006 * self.head.scale, 1].min()
        return np.array([self.head.eye_centre[0], front_y, corner_z], np.float32)

    # Hair -------------------------------------------------------------------------------------

    def _brows(self) -> tuple[Strands, Array]:
        rng = np.random.default_rng(5)
        count, scale = 470, self.head.scale
        facing = np.flatnonzero(
            (self.normals[:, 1] < -0.2) & (np.abs(self.face_xyz[:, 2] - 0.03) < 0.03)
        )
        nearest = cKDTree(self.face_xyz[facing][:, [0, 2]])
        shade = np.zeros(len(self.rest), np.float32)
        points, roots = [], []
        for side in (1, -1):
            u = rng.random(count) ** 0.9
            x, z = _brow_line(u)
            spread = (
                0.0050
                * (1 - 0.70 * smoothstep(0.50, 1, u))
                * (0.55 + 0.45 * smoothstep(0, 0.15, u))
            )
            z = z + spread * np.clip(rng.normal(0, 0.55, count), -1.1, 1.1)
            root = facing[nearest.query(np.c_[side * x, z])[1]]
            normal = self.normals[root]
            rise = 0.95 * (1 - smoothstep(0, 0.45, u)) + 0.25 * (1 - u) - 0.15
            along = np.c_[np.full(count, side), np.zeros(count), rise + rng.normal(0, 0.16, count)]
            along = _unit(along - normal * (along * normal).sum(1, keepdims=True))
            start = np.stack([side * x, np.zeros(count), z], 1) * scale + self.head.eye_centre
            # The root is the nearest vertex; slide its depth along the surface to the true place.
            offset = start - self.rest[root]
            offset[:, 1] = (
                -(normal[:, 0] * offset[:, 0] + normal[:, 2] * offset[:, 2]) / normal[:, 1]
            )
            start = self.rest[root] + offset
            t = np.linspace(0, 1, 5)[None, :, None]
            length = (0.0078 * (1 - 0.35 * u) * rng.uniform(0.6, 1.1, count) * scale)[:, None, None]
            lift = (0.0009 * t - 0.0006 * t * t) * scale
            points.append(start[:, None] + along[:, None] * length * t + normal[:, None] * lift)
            roots.append(root)
            shade = np.maximum(shade, self._brow_shade(side))
        return Strands(np.concatenate(points).astype(np.float32), np.concatenate(roots)), shade

    def _brow_shade(self, side: int) -> Array:
        x, y, z = self.face_xyz.T
        u = np.linspace(0, 1, 60)
        line_x, line_z = _brow_line(u)
        distance = np.hypot(x[:, None] * side - line_x, z[:, None] - line_z) / (
            0.0042 * (1.15 - 0.6 * u)
        )
        return np.asarray(
            np.exp(-(distance.min(1) ** 2)) * (self.normals[:, 1] < -0.2) * (y < 0.02), np.float32
        )

    def _lashes(self) -> Strands:
        """Short, separate lashes along the lid edges. The helper mesh of the lashes starts inside the
        eyeball; its lines pass the lid edge at about 1.08 eyeball radii."""
        rng = np.random.default_rng(3)
        rest, scale = self.head.lashes.positions(self.head.vertices), self.head.scale
        points, roots = [], []
        for ball, outside in zip(self.head.eyeballs, (1, -1), strict=True):
            from_eye = (rest - ball.centre) / scale
            edge = np.abs(np.linalg.norm(from_eye, axis=1) - 1.08 * ball.radius_m / scale) < 0.0006
            edge &= np.abs(from_eye[:, 0]) < 0.0150
            is_upper = from_eye[:, 2] > -0.0017
            for upper, count, length_m in ((True, 150, 0.0066), (False, 60, 0.0034)):
                root = rng.choice(np.flatnonzero(edge & (is_upper == upper)), count)
                outward = from_eye[root, 0] / 0.015
                rise = (-0.05 if upper else -0.25) + 0.12 * rng.random(count)
                fan = 0.55 * outward + rng.normal(0, 0.10, count)
                along = _unit(np.c_[fan, np.full(count, -1.0), rise])
                jitter = rng.normal(0, 0.0004 * scale, (count, 1)) * [[1, 0, 0]]
                t = np.linspace(0, 1, 5)[None, :, None]
                longer_outside = 0.8 + 0.35 * np.clip(outward * outside, 0, 1)
                length = length_m * scale * rng.uniform(0.7, 1.1, count) * longer_outside
                curl = np.array([0, 0, 0.45 if upper else -0.1]) * t * t
                points.append(
                    (rest[root] + jitter)[:, None]
                    + (along[:, None] * t + curl) * length[:, None, None]
                )
                roots.append(root)
        return Strands(np.concatenate(points).astype(np.float32), np.concatenate(roots))

    def _head_hair(self) -> Array:
        """Short hair [S,P,3]: lying sides, a longer top swept from a side parting, loose locks."""
        rng = np.random.default_rng(9)
        root, normal = self._scatter_on_scalp(rng)
        count = len(root)
        origin = (root - self.head.eye_centre) / self.head.scale
        top = smoothstep(0.055, 0.085, origin[:, 2] + 0.15 * np.clip(-origin[:, 1], -0.1, 0.02))
        front = smoothstep(0.03, -0.03, origin[:, 1])
        length = (0.011 + top * (0.020 + 0.012 * front)) * rng.uniform(0.75, 1.1, count)
        comb = self._comb_direction(origin, top, front)
        comb += 0.25 * np.stack([noise(origin, 55, 31 + i, 3) for i in range(3)], 1)
        comb += rng.normal(0, 0.08, comb.shape)
        steps = 10
        step_m = (length / steps * self.head.scale)[:, None]
        lift = (0.35 + top * (0.45 + 0.45 * front))[:, None]
        points, position = [root], root
        surface = cKDTree(self.rest)
        for step in range(1, steps + 1):
            t = step / steps
            # Along the scalp, or hair combed sideways would fly off where the head curves away.
            along = _unit(comb - normal * (comb * normal).sum(1, keepdims=True))
            position = position + step_m * _unit(along + normal * lift * 1.6 * (1 - t) ** 1.3)
            position, normal = self._keep_outside(surface, position, 0.0010 + 0.006 * t * top)
            points.append(position)
        return _clump(np.stack(points, 1), rng, amount=0.55).astype(np.float32)

    def _comb_direction(self, origin: Array, top: Array, front: Array) -> Array:
        # Swept to his left; only the low right side turns down, gradually, so no ridge shows.
        sweep = 1.0 - 1.6 * smoothstep(-0.030, -0.062, origin[:, 0])
        on_top = np.stack([0.75 * sweep, 0.50 - 0.20 * front, -0.10 + 0.25 * front], 1)
        on_side = np.stack([0.1 * np.sign(origin[:, 0]), 0.35 + 0 * top, -1 + 0 * top], 1)
        return np.asarray(on_side + (on_top - on_side) * top[:, None], np.float32)

    def _scatter_on_scalp(self, rng: np.random.Generator) -> tuple[Array, Array]:
        quads = self.head.skin.quads
        corners = self.rest[quads]
        area = np.linalg.norm(
            np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]), axis=1
        )
        density = self.scalp[quads].mean(1)
        # Thin out softly at the hairline, or it looks like a cap.
        weight = area * np.where(density > 0.12, density, 0)
        chosen = rng.choice(len(quads), self.look.strands, p=weight / weight.sum())
        s, t = rng.random((2, len(chosen), 1))
        blend = np.concatenate([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], 1)[..., None]
        root = (self.rest[quads[chosen]] * blend).sum(1)
        return root.astype(np.float32), _unit((self.normals[quads[chosen]] * blend).sum(1))

    def _keep_outside(
        self, surface: cKDTree, position: Array, clearance_m: Array
    ) -> tuple[Array, Array]:
        """Push points [N,3] out to `clearance_m` above the skin; also the skin's normals there."""
        nearest = surface.query(position)[1]
        normal = self.normals[nearest]
        height = ((position - self.rest[nearest]) * normal).sum(1)
        push = np.maximum(clearance_m * self.head.scale - height, 0)
        return np.asarray(position + normal * push[:, None], np.float32), normal


def _rigid_motion(before: Array, after: Array) -> tuple[Array, Array]:
    """Rotation [3,3] and shift [3] that take points `before` to `after` best (Kabsch)."""
    centre_before, centre_after = before.mean(0), after.mean(0)
    u, _, vt = np.linalg.svd((before - centre_before).T @ (after - centre_after))
    mirror = np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))])
    turn = (vt.T @ mirror @ u.T).astype(np.float32)
    return turn, centre_after - turn @ centre_before


def _clump(strands: Array, rng: np.random.Generator, amount: float) -> Array:
    """Pull every strand's tip towards a nearby guide strand, so that locks form."""
    guides = rng.choice(len(strands), len(strands) // 28, replace=False)
    mine = guides[cKDTree(strands[guides, 0]).query(strands[:, 0])[1]]
    t = np.linspace(0, 1, strands.shape[1])[None, :, None] ** 1.5
    pull = amount * rng.uniform(0.3, 1.0, (len(strands), 1, 1))
    return np.asarray(strands + (strands[mine] - strands) * t * pull)


def _eyeball(ball: Eyeball, target: Array, iris_colour: Colour) -> Surface:
    """A sphere with its pole towards `target`, a low cornea bulge and a painted iris."""
    rings, segments = 72, 64
    angle = np.linspace(0, 1, rings) ** 1.4 * 2.2  # from the pole, denser in the iris
    turn = np.linspace(0, 2 * np.pi, segments)
    angle, turn = np.broadcast_arrays(angle[:, None], turn[None])
    forward = _unit((target - ball.centre)[None])[0]
    right = _unit(np.cross(forward, [0, 0, 1.0])[None])[0]
    up = np.cross(right, forward)
    bulge = 1 + 0.035 * smoothstep(0.50, 0.15, angle)
    direction = np.cos(angle)[..., None] * forward + np.sin(angle)[..., None] * (
        np.cos(turn)[..., None] * right + np.sin(turn)[..., None] * up
    )
    vertices = ball.centre + ball.radius_m * bulge[..., None] * direction
    colours = _eye_colours(angle, turn, iris_colour)
    return Surface(
        vertices.reshape(-1, 3).astype(np.float32),
        grid_quads(rings, segments)[:, ::-1],
        colours.reshape(-1, 3).astype(np.float32),
    )


def _eye_colours(angle: Array, turn: Array, iris_colour: Colour) -> Array:
    iris_edge, pupil_edge = 0.46, 0.145
    white = np.array([0.80, 0.755, 0.73]) * (1 - 0.30 * smoothstep(0.7, 1.3, angle))[..., None]
    fibres = 1 + 0.30 * np.sin(turn * 23 + 3 * np.sin(turn * 5)) * smoothstep(0.15, 0.3, angle)
    glow = 0.75 + 0.75 * smoothstep(0.42, 0.20, angle)
    iris = np.array(iris_colour) * (fibres * glow)[..., None]
    iris = iris * (1 - 0.75 * smoothstep(iris_edge - 0.09, iris_edge, angle))[..., None]
    iris = iris * smoothstep(pupil_edge, pupil_edge + 0.03, angle)[..., None]
    inside = smoothstep(iris_edge + 0.02, iris_edge - 0.02, angle)[..., None]
    return np.asarray(np.clip(white * (1 - inside) + iris * inside, 0, 1), np.float32)


def _brow_line(
    u: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Middle of the brow in face coordinates, u from the nose outwards."""
    rise = 0.0058 * np.sin(np.clip(u * 1.25, 0, 1.25) * 1.9) - 0.012 * np.clip(u - 0.75, 0, 1)
    return 0.012 + 0.042 * u, 0.0190 + rise


def _blob(x: Array, middle: float, width: float) -> Array:
    return np.asarray(np.exp(-(((x - middle) / width) ** 2)), np.float32)


def _paint(colour: Array, amount: Array, over: Array) -> Array:
    return np.asarray(colour * (1 - amount[:, None]) + over * amount[:, None])


def _unit(vectors: npt.ArrayLike) -> Array:
    array = np.asarray(vectors, np.float32)
    return np.asarray(array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12))
