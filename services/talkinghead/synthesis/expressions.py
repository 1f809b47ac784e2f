"""Facial actions: what the resting face does, and every mouth and lid shape of the atlas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Actions = dict[str, float]

# Closer together where speech lives, so that blends between neighbours stay crisp.
JAW_STEPS = (0.0, 0.08, 0.16, 0.25, 0.35, 0.45, 0.56, 0.68, 0.82, 1.0)
WIDTH_STEPS = (-1.0, -0.7, -0.35, 0.0, 0.35, 0.7, 1.0)
LID_STEPS = (0.2, 0.4, 0.6, 0.8, 1.0)
# Where the eyes may rest in the idle loop: metres from the camera, to his left and up.
GAZES: Mapping[str, tuple[float, float]] = {
    "left": (0.09, 0.0),
    "right": (-0.07, 0.02),
    "down": (0.02, -0.06),
}


@dataclass(frozen=True)
class MouthPatch:
    """One picture of the mouth atlas at a point of mouth space (see visemes.MouthShape)."""

    name: str
    jaw: float
    width: float
    press: float = 0.0
    lip_teeth: float = 0.0


def resting_face() -> Actions:
    """Awake, friendly, mouth closed: what the idle loop shows."""
    return {"browInnerUp": 0.06} | _both(
        {
            "browOuterUp": 0.08,
            "mouthSmile": 0.46,
            "mouthDimple": 0.10,
            "cheekSquint": 0.17,
            "eyeSquint": 0.02,
            "eyeWide": 0.26,
            "mouthPress": 0.05,
        }
    )


def mouth_patches() -> list[MouthPatch]:
    """The grid jaw x width in row order, then the two contacts that lie outside the grid."""
    grid = [
        MouthPatch(f"jaw{100 * jaw:03.0f}width{100 * width:+04.0f}", jaw, width)
        for jaw in JAW_STEPS
        for width in WIDTH_STEPS
    ]
    contacts = [
        MouthPatch("press", 0, 0, press=1),
        MouthPatch("press-round", 0, -1, press=1),
        MouthPatch("lip-teeth", 0, 0, lip_teeth=1),
    ]
    return grid + contacts


def mouth_actions(patch: MouthPatch) -> Actions:
    """Facial actions of a mouth patch, the resting face included."""
    rest = resting_face()
    round_, spread = max(-patch.width, 0.0), max(patch.width, 0.0)
    # Speech is drawn a little larger than life: the picture is small and the lips must be read.
    sides = {
        "mouthSmile": 0.46 * (1 - round_) + 0.30 * spread,
        "mouthDimple": 0.10 * (1 - round_),
        "mouthStretch": 0.35 * spread,
        "mouthUpperUp": 0.22 * patch.jaw + 0.16 * spread * (0.4 + patch.jaw),
        "mouthLowerDown": 0.30 * patch.jaw + 0.35 * spread * (0.25 + patch.jaw),
        "mouthPress": 0.05 * (1 - patch.jaw),
    }
    middle = {
        "jawOpen": 0.68 * patch.jaw,
        "mouthPucker": round_ * (0.95 - 0.35 * patch.jaw),
        "mouthFunnel": round_ * (0.15 + 0.55 * patch.jaw),
    }
    actions = {**rest, **_both(sides), **middle}
    for action, weight in _contact_actions(patch).items():
        actions[action] = actions.get(action, 0.0) + weight
    return actions


def lid_actions(closure: float) -> Actions:
    """Both lids closed by `closure` 0..1, with the little squint that goes with a blink."""
    rest = resting_face()
    blink = _both({"eyeBlink": closure, "cheekSquint": 0.17 + 0.06 * closure})
    rest.update(blink)
    for side in ("Left", "Right"):
        rest[f"eyeSquint{side}"] *= 1 - closure
        rest[f"eyeWide{side}"] *= 1 - closure
    return rest


def _contact_actions(patch: MouthPatch) -> Actions:
    press = _both({"mouthPress": 0.18 * patch.press})
    bite = _both({"mouthUpperUp": 0.30 * patch.lip_teeth, "mouthSmile": -0.05 * patch.lip_teeth})
    rolls = {
        "mouthRollLower": 0.12 * patch.press + 0.70 * patch.lip_teeth,
        "mouthRollUpper": 0.12 * patch.press,
        "mouthClose": 0.14 * patch.press,
        "jawOpen": 0.10 * patch.lip_teeth,
    }
    return {**press, **bite, **rolls}


def _both(actions: Mapping[str, float]) -> Actions:
    return {
        f"{name}{side}": weight for name, weight in actions.items() for side in ("Left", "Right")
    }
