"""Stage 3: how he looks. Skin paint, eyes, hair, brows, lashes and clothes for a `Head`.

Colours are painted per vertex for regions (lips, cheeks, stubble); pores and freckles are noise in
the renderer's shader, which needs the rest position of every skin vertex. Hair is strands: [S,P,3].

"Face coordinates" are metres from the middle of the eyes, scaled to the reference head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from services.talkinghead.synthesis.hair import (
    Skin,
    brow_shade,
    grow_brows,
    grow_head_hair,
    grow_lashes,
    noise,
    unit,
)
from services.talkinghead.synthesis.head import (
    Array,
    Eyeball,
    Head,
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


class Appearance:
    """Everything about a head that does not move: paint, masks and strands on the neutral face."""

    def __init__(self, head: Head, look: Look) -> None:
        self.head, self.look = head, look
        rest = head.skin.positions(head.vertices)
        face_xyz = (rest - head.eye_centre) / np.float32(head.scale)
        self.skin = Skin(head, rest, head.skin.normals(rest), face_xyz)
        self.lips = self._mask("lips")
        self.mouth_inside = self._mask("inside-mouth")
        self.eyelids = self._mask("eyelids")
        self.ears = self._mask("ears")
        self.scalp = self._scalp()
        self.beard = self._beard()
        self.brow_hairs = grow_brows(self.skin)
        self.lash_hairs = grow_lashes(head)
        self.head_hair = grow_head_hair(self.skin, self.scalp, look.strands)
        self.teeth, self._lower_teeth = dental_arches(head, self._lip_line())

    # Paint ------------------------------------------------------------------------------------

    def skin_colours(self) -> Array:
        """Painted skin [N,3], 0..1."""
        x, y, z = self.skin.face_xyz.T
        front = smoothstep(0.02, -0.03, y)
        colour = np.repeat(np.array([self.look.skin]), len(x), 0)
        colour *= (
            1 + 0.022 * noise(self.skin.face_xyz, 60, 1) + 0.02 * noise(self.skin.face_xyz, 300, 2)
        )[:, None]
        cheeks = _blob(np.abs(x), 0.043, 0.022) * _blob(z, -0.040, 0.020) * front
        nose = _blob(x, 0, 0.016) * _blob(z, -0.040, 0.016) * _blob(y, -0.035, 0.02)
        redness = np.clip(0.42 * cheeks + 0.40 * nose + 0.5 * self.ears, 0, 1)[:, None]
        colour *= 1 - redness * np.array([0.03, 0.18, 0.18])
        sockets = _blob(np.abs(x), 0.031, 0.019) * _blob(z, -0.006, 0.013) * front
        colour *= 1 - sockets[:, None] * np.array([0.10, 0.13, 0.10])
        colour *= 1 - np.clip(self.eyelids, 0, 1)[:, None] * np.array([0.06, 0.11, 0.10])
        colour *= 1 - self.look.stubble * self.beard[:, None] * np.array([1.0, 0.86, 0.74])
        colour = _paint(colour, 0.7 * self.scalp, np.array(self.look.hair) * 1.3)
        colour *= 1 - 0.30 * brow_shade(self.skin)[:, None]
        lips = np.array(self.look.lips) * (1 + 0.05 * noise(self.skin.face_xyz, 300, 3))[:, None]
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
            "brows": self.brow_hairs.points
            + (skin - self.skin.rest)[self.brow_hairs.roots][:, None],
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
        x, y, z = self.skin.face_xyz.T
        depth = [-0.06, -0.03, -0.012, 0.002, 0.020, 0.032, 0.05, 0.062, 0.09, 0.14, 0.2]
        line = [0.066, 0.066, 0.062, 0.040, 0.024, -0.022, -0.024, 0.010, -0.03, -0.06, -0.07]
        hairline = np.interp(y, depth, line)
        temples = np.exp(-(((np.abs(x) - 0.046) / 0.016) ** 2)) * smoothstep(0.03, -0.01, y)
        hairline = hairline + 0.010 * temples + 0.0025 * noise(self.skin.face_xyz, 130, 4, 3)
        above = smoothstep(-0.006, 0.008, z - hairline)
        return np.asarray(above * (self.ears < 0.3) * (z > -0.09), np.float32)

    def _beard(self) -> Array:
        """1 where stubble grows: jaw, chin, upper lip; thin on the cheeks, none on the lips."""
        x, y, z = self.skin.face_xyz.T
        jaw = smoothstep(-0.052, -0.088, z)
        moustache = 0.9 * _blob(x, 0, 0.028) * _blob(z, -0.058, 0.011) * smoothstep(-0.02, -0.04, y)
        side = _blob(y, 0.025, 0.020) * smoothstep(-0.01, -0.04, z)
        area = np.clip(np.maximum(np.maximum(jaw, moustache), 0.8 * side), 0, 1)
        area *= smoothstep(0.065, 0.035, y) * smoothstep(-0.150, -0.120, z)
        area *= np.clip(1 - 2.0 * self.lips, 0, 1) * (1 - np.clip(2 * self.ears, 0, 1))
        return self.head.skin.blur(area.astype(np.float32), 2)

    def _lip_line(self) -> Array:
        """Middle of the closed lips [3]: height of the mouth corners, depth of the lips' front."""
        lips = self.skin.rest[self.lips > 0.5]
        away = np.abs(lips[:, 0] - self.head.eye_centre[0])
        corner_z = np.median(lips[away > np.quantile(away, 0.96), 2])
        front_y = lips[away < 0.006 * self.head.scale, 1].min()
        return np.array([self.head.eye_centre[0], front_y, corner_z], np.float32)


def _rigid_motion(before: Array, after: Array) -> tuple[Array, Array]:
    """Rotation [3,3] and shift [3] that take points `before` to `after` best (Kabsch)."""
    centre_before, centre_after = before.mean(0), after.mean(0)
    u, _, vt = np.linalg.svd((before - centre_before).T @ (after - centre_after))
    mirror = np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))])
    turn = (vt.T @ mirror @ u.T).astype(np.float32)
    return turn, centre_after - turn @ centre_before


def _eyeball(ball: Eyeball, target: Array, iris_colour: Colour) -> Surface:
    """A sphere with its pole towards `target`, a low cornea bulge and a painted iris."""
    rings, segments = 72, 64
    angle = np.linspace(0, 1, rings) ** 1.4 * 2.2  # from the pole, denser in the iris
    turn = np.linspace(0, 2 * np.pi, segments)
    angle, turn = np.broadcast_arrays(angle[:, None], turn[None])
    forward = unit((target - ball.centre)[None])[0]
    right = unit(np.cross(forward, [0, 0, 1.0])[None])[0]
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


def _blob(x: Array, middle: float, width: float) -> Array:
    return np.asarray(np.exp(-(((x - middle) / width) ** 2)), np.float32)


def _paint(colour: Array, amount: Array, over: Array) -> Array:
    return np.asarray(colour * (1 - amount[:, None]) + over * amount[:, None])
