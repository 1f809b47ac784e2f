"""The room behind him: a window, a wall, a shelf and a plant, far out of focus."""

from __future__ import annotations

import cv2
import numpy as np

from services.talkinghead.synthesis.head import Array

# left, top, right, bottom (fractions) and linear colour.
Rectangle = tuple[float, float, float, float, tuple[float, float, float]]
WALL: tuple[float, float, float] = (0.36, 0.335, 0.30)
RECTANGLES: tuple[Rectangle, ...] = (
    (-0.10, -0.10, 0.17, 0.62, (1.15, 1.22, 1.30)),  # window
    (0.025, -0.10, 0.040, 0.62, (0.50, 0.48, 0.45)),  # its bar
    (-0.10, 0.62, 0.22, 0.66, (0.60, 0.57, 0.53)),  # sill
    (0.17, -0.10, 0.25, 1.10, (0.52, 0.49, 0.46)),  # curtain
    (0.70, 0.10, 1.10, 0.13, (0.16, 0.10, 0.06)),  # shelves
    (0.70, 0.40, 1.10, 0.43, (0.16, 0.10, 0.06)),
    (0.70, 0.72, 1.10, 0.75, (0.16, 0.10, 0.06)),
    (0.70, 0.13, 0.72, 1.10, (0.13, 0.085, 0.05)),
)
BOOK_COLOURS = (
    *((0.20, 0.12, 0.09), (0.12, 0.16, 0.19), (0.38, 0.34, 0.27), (0.12, 0.14, 0.11)),
    *((0.30, 0.23, 0.14), (0.22, 0.21, 0.22), (0.15, 0.10, 0.10)),
)


def blurred_room(size: int) -> Array:
    """Linear colour [size,size,3] of the room as a lens focused on the face would show it."""
    picture = np.tile(np.array(WALL, np.float32), (size, size, 1))
    picture *= np.linspace(1.12, 0.72, size, dtype=np.float32)[:, None, None]
    for left, top, right, bottom, colour in (*RECTANGLES, *_books()):
        rows = slice(max(round(top * size), 0), max(round(bottom * size), 0))
        columns = slice(max(round(left * size), 0), max(round(right * size), 0))
        picture[rows, columns] = colour
    _paint_plant(picture)
    blurred = _defocus(picture, round(0.030 * size))
    # A trace of grain, or smooth walls show bands at 8 bits.
    grain = np.random.default_rng(6).normal(1, 0.006, (size, size, 1))
    return np.asarray(blurred * grain, np.float32)


def _books() -> list[Rectangle]:
    rng = np.random.default_rng(4)
    books: list[Rectangle] = []
    for floor in (0.40, 0.72):
        x = 0.735
        while x < 1.0:
            width, height = rng.uniform(0.018, 0.04), rng.uniform(0.13, 0.22)
            if rng.random() < 0.85:
                colour = BOOK_COLOURS[rng.integers(len(BOOK_COLOURS))]
                books.append((x, floor - height, x + width, floor, colour))
            x += width
    return books


def _paint_plant(picture: Array) -> None:
    rng = np.random.default_rng(8)
    size = len(picture)
    for _ in range(26):
        middle = rng.normal((0.255, 0.66), (0.028, 0.07))
        axes = (round(0.030 * size), round(0.010 * size))
        green = float(rng.uniform(0.06, 0.16))
        centre = (round(middle[0] * size), round(middle[1] * size))
        colour = (0.62 * green, green, 0.50 * green)
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)


def _defocus(picture: Array, radius: int) -> Array:
    """A disc blur, as a lens makes, softened a little."""
    axis = np.arange(-radius, radius + 1)
    disc = (axis[:, None] ** 2 + axis[None] ** 2 <= radius**2).astype(np.float32)
    blurred = cv2.filter2D(picture, -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.GaussianBlur(blurred, (0, 0), radius * 0.30), np.float32)
