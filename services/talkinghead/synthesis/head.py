"""Stage 2: the head as renderable parts. Subdivided skin and cloth, round eyes, arches of teeth.

Every part is a fixed linear map of the base vertices, so a face with other facial actions is one
sparse product away. The eyes and teeth of the base mesh are poor from close by (flat irises, teeth
that poke through the mouth corners), so both are built here from their fitted places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

Array = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.signedinteger[Any]]

# Sizes in this package are written for an adult of 64.8 mm between the eyes and scaled by `Head.scale`.
REFERENCE_EYE_DISTANCE_M = 0.0648


def smoothstep(low: float, high: float, x: npt.ArrayLike) -> Array:
    """0 at `low`, 1 at `high`, smooth between; `low` may be the larger one."""
    t = np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
    smooth: Array = (t * t * (3 - 2 * t)).astype(np.float32)
    return smooth


def catmull_clark(faces: Indices, vertex_count: int) -> tuple[sparse.csr_matrix, Indices]:
    """One Catmull-Clark step for quads [F,4] -> (matrix from old to new vertices, new quads)."""
    face_count = len(faces)
    face_rows = np.repeat(np.arange(face_count), 4)
    sides = np.sort(np.stack([faces, np.roll(faces, -1, 1)], 2).reshape(-1, 2), 1)
    edges, edge_of_side = np.unique(sides, axis=0, return_inverse=True)
    edge_of_side = edge_of_side.reshape(face_count, 4)
    edge_count = len(edges)

    def incidence(rows: Indices, columns: Indices, shape: tuple[int, int]) -> sparse.csr_matrix:
        return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape)

    face_points = incidence(face_rows, faces.ravel(), (face_count, vertex_count)) * 0.25
    edge_faces = incidence(edge_of_side.ravel(), face_rows, (edge_count, face_count))
    on_border = np.asarray(edge_faces.sum(1)).ravel() != 2
    edge_rows = np.repeat(np.arange(edge_count), 2)
    midpoints = incidence(edge_rows, edges.ravel(), (edge_count, vertex_count)) * 0.5
    inner_edge_points = 0.5 * midpoints + 0.25 * (edge_faces @ face_points)
    edge_points = _choose_rows(on_border, midpoints, inner_edge_points)

    vertex_faces = incidence(faces.ravel(), face_rows, (vertex_count, face_count))
    valence = np.maximum(np.asarray(vertex_faces.sum(1)).ravel(), 1)
    vertex_edges = incidence(edges.ravel(), edge_rows, (vertex_count, edge_count))
    inner = sparse.diags(1 / valence**2) @ (
        vertex_faces @ face_points + 2 * vertex_edges @ midpoints
    )
    inner = inner + sparse.diags((valence - 3) / valence)
    border_edges = edges[on_border]
    border_rows = np.repeat(np.flatnonzero(on_border), 2)
    border = incidence(border_edges.ravel(), border_rows, (vertex_count, edge_count)) @ midpoints
    border = 0.25 * border + 0.5 * sparse.identity(vertex_count)
    border_vertex = np.zeros(vertex_count, bool)
    border_vertex[border_edges.ravel()] = True
    vertex_points = _choose_rows(border_vertex, border, inner)

    matrix = sparse.vstack([vertex_points, edge_points, face_points]).tocsr()
    # Corners where borders meet get rows that do not sum to one: normalise them.
    matrix = sparse.diags(1 / np.asarray(matrix.sum(1)).ravel()) @ matrix
    edge_ids = edge_of_side + vertex_count
    face_ids = np.arange(face_count)[:, None] + vertex_count + edge_count
    quads = np.stack([faces, edge_ids, np.repeat(face_ids, 4, 1), np.roll(edge_ids, 1, 1)], 2)
    return matrix.tocsr(), quads.reshape(-1, 4).astype(np.int32)


def _choose_rows(
    mask: npt.NDArray[np.bool_], yes: sparse.csr_matrix, no: sparse.csr_matrix
) -> sparse.csr_matrix:
    chosen: sparse.csr_matrix = (
        sparse.diags(mask.astype(float)) @ yes + sparse.diags((~mask).astype(float)) @ no
    )
    return chosen


class Part:
    """Some faces of the base mesh, subdivided: a linear map from base vertices to fine ones."""

    def __init__(
        self, faces: Indices, corners: Indices, uv: Array, levels: int, vertex_count: int
    ) -> None:
        base_ids, compact = np.unique(faces, return_inverse=True)
        quads = compact.reshape(faces.shape).astype(np.int32)
        base_uv = np.zeros((len(base_ids), 2), np.float32)
        base_uv[quads.ravel()] = uv[corners.ravel()]
        matrix = sparse.identity(len(base_ids)).tocsr()
        for _ in range(levels):
            step, quads = catmull_clark(quads, matrix.shape[0])
            matrix = step @ matrix
        self.base_ids = base_ids
        self.matrix = matrix.tocsr().astype(np.float32)
        self.quads = quads
        self.uv: Array = np.asarray(matrix @ base_uv, np.float32)
        rows = np.repeat(np.arange(len(quads)), 4)
        shape = (matrix.shape[0], len(quads))
        self._faces_at_vertex = sparse.csr_matrix(
            (np.ones(len(rows), np.float32), (quads.ravel(), rows)), shape
        )

    def positions(self, vertices: Array) -> Array:
        """Fine vertices [N,3] for base vertices [V,3]; works on deltas too."""
        return np.asarray(self.matrix @ vertices[self.base_ids], np.float32)

    def normals(self, positions: Array) -> Array:
        """Unit vertex normals [N,3] of fine vertices [N,3]."""
        diagonal = positions[self.quads[:, 2]] - positions[self.quads[:, 0]]
        other = positions[self.quads[:, 3]] - positions[self.quads[:, 1]]
        normal = self._faces_at_vertex @ np.cross(diagonal, other).astype(np.float32)
        return np.asarray(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12))

    def blur(self, values: Array, steps: int) -> Array:
        """Average a per-vertex value [N] with its neighbours, `steps` times."""
        neighbours = self._faces_at_vertex @ self._faces_at_vertex.T
        neighbours = sparse.diags(1 / np.asarray(neighbours.sum(1)).ravel()) @ neighbours
        for _ in range(steps):
            values = neighbours @ values
        return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Eyeball:
    """A sphere fitted to the eye of the base mesh."""

    centre: Array
    radius_m: float


@dataclass(frozen=True)
class Surface:
    """Plain mesh: vertices [N,3], quads [F,4], colours [N,3] (painted, 0..1)."""

    vertices: Array
    quads: Indices
    colours: Array


class Head:
    """One person's head and shoulders: parts, eyes, and the facial actions that move them.

    Raises FileNotFoundError when the identity of stage 1 is missing.
    """

    def __init__(self, identity_path: Path, levels: int = 2) -> None:
        with np.load(identity_path) as data:
            self.vertices: Array = data["vertices"]
            self._deltas: Array = data["action_deltas"]
            self._action_index = {str(name): i for i, name in enumerate(data["action_names"])}
            self._faces: Indices = data["faces"]
            self._corners: Indices = data["face_corners"]
            self._groups = data["face_groups"]
            self._uv: Array = data["uv"]
            self.masks = {
                k.removeprefix("mask_"): data[k] for k in data.files if k.startswith("mask_")
            }
        eyes = [self.group_vertices(f"helper-{side}-eye") for side in ("l", "r")]
        self.eyeballs = [_fit_sphere(self.vertices[ids]) for ids in eyes]
        self.eye_centre: Array = np.mean([ball.centre for ball in self.eyeballs], axis=0)
        distance_m = float(np.linalg.norm(self.eyeballs[0].centre - self.eyeballs[1].centre))
        self.scale = distance_m / REFERENCE_EYE_DISTANCE_M
        above_waist = self.eye_centre[2] - 0.45 * self.scale
        self.skin = self._part(("body",), levels, lambda z: z > above_waist + 0.05)
        throat = self.eye_centre[2] - 0.085 * self.scale
        self.cloth = self._part(("body",), levels, lambda z: (z > above_waist) & (z < throat))
        self.lashes = self._part(("helper-l-eyelashes", "helper-r-eyelashes"), levels)
        self.tongue = self._part(("helper-tongue",), 1)
        self.lower_jaw_ids = self.group_vertices("helper-lower-teeth")

    def group_vertices(self, group: str) -> Indices:
        """Base vertex ids of one named group of the base mesh."""
        return np.unique(self._faces[self._groups == group]).astype(np.int32)

    def with_actions(self, actions: Mapping[str, float]) -> Array:
        """Base vertices [V,3] with facial actions (ARKit names, weights of 0..1, beyond 1 allowed)."""
        moved = self.vertices.copy()
        for name, weight in actions.items():
            moved += np.float32(weight) * self._deltas[self._action_index[name]]
        return moved

    def _part(
        self,
        groups: tuple[str, ...],
        levels: int,
        keep: Callable[[Array], npt.NDArray[np.bool_]] | None = None,
    ) -> Part:
        # Some groups of the base mesh come in numbered pieces, such as "helper-l-eyelashes-1".
        wanted = np.char.startswith(self._groups, groups[0])
        for group in groups[1:]:
            wanted |= np.char.startswith(self._groups, group)
        if keep is not None:
            wanted &= keep(self.vertices[self._faces][:, :, 2].mean(1))
        return Part(
            self._faces[wanted], self._corners[wanted], self._uv, levels, len(self.vertices)
        )


def _fit_sphere(points: Array) -> Eyeball:
    """Least squares: |p|^2 = 2 p.c + (r^2 - |c|^2)."""
    system = np.c_[2 * points, np.ones(len(points))]
    solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    centre = solution[:3].astype(np.float32)
    return Eyeball(centre, float(np.sqrt(solution[3] + centre @ centre)))


def grid_quads(rows: int, columns: int, first: int = 0) -> Indices:
    """Quads of a rows x columns grid of vertices numbered from `first`."""
    ids = np.arange(rows * columns).reshape(rows, columns) + first
    quads = np.stack([ids[:-1, :-1], ids[1:, :-1], ids[1:, 1:], ids[:-1, 1:]], -1)
    return quads.reshape(-1, 4).astype(np.int32)


def dental_arches(head: Head, lip_line: Array) -> tuple[Surface, npt.NDArray[np.bool_]]:
    """Upper and lower teeth behind `lip_line` (middle of the closed lips, [3]).

    Returns the surface and which of its vertices belong to the lower jaw and move with it.
    """
    vertices: list[Array] = []
    colours: list[Array] = []
    quads: list[Indices] = []
    for upper in (True, False):
        arch, colour = _one_arch(head.scale, upper)
        quads.append(grid_quads(arch.shape[0], arch.shape[1], first=sum(map(len, vertices))))
        vertices.append((arch + lip_line).reshape(-1, 3))
        colours.append(colour.reshape(-1, 3))
    is_lower = np.arange(sum(map(len, vertices))) >= len(vertices[0])
    surface = Surface(
        np.concatenate(vertices).astype(np.float32),
        np.concatenate(quads),
        np.concatenate(colours).astype(np.float32),
    )
    return surface, is_lower


def _one_arch(scale: float, upper: bool) -> tuple[Array, Array]:
    """A curved strip [113,9,3] with gaps between 14 teeth, and its paint; origin at the lip line."""
    along, down = np.meshgrid(np.linspace(-1, 1, 113), np.linspace(0, 1, 9), indexing="ij")
    # `down` is 0 at the cutting edge, 1 in the gum.
    # Wider incisors, smaller teeth to the sides.
    tooth = 7 * np.sign(along) * np.abs(along) ** 0.85
    gap = np.abs((tooth % 1) - 0.5) * 2
    bend = 1.25 * along
    half_width, height = (0.0245, 0.0118) if upper else (0.0210, 0.0064)
    x = np.sin(bend) / np.sin(1.25) * half_width
    depth = 0.0080 if upper else 0.0160
    y = depth + 0.031 * (1 - np.cos(bend)) / (1 - np.cos(1.25)) + 0.0012 * down**2 + 0.0007 * gap**6
    edge = 0.0008 * gap**4 + 0.0010 * np.abs(along)
    sign = 1 if upper else -1
    z = (-0.0012 if upper else -0.0050) + sign * (edge + down * height)
    gum = smoothstep(0.66, 0.80, down - 0.10 * gap**3)[..., None]
    enamel = (
        np.array([0.82, 0.79, 0.72]) * (1 - 0.45 * gap**10 - 0.35 * np.abs(along) ** 1.5)[..., None]
    )
    enamel = enamel * (1 - 0.15 * down[..., None])
    colour = enamel * (1 - gum) + np.array([0.52, 0.24, 0.23]) * gum
    return (np.stack([x, y, z], -1) * scale).astype(np.float32), colour.astype(np.float32)
