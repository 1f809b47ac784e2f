"""Personas: a folder each, with `persona.json`, the face's films and its mouth shapes.

Those that ship lie in `visavis/personas/`, a user's own in `VISAVIS_HOME/personas/`; a user's own comes first.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visavis.models import store_dir

DEFAULT_PERSONA_ID = "theo"
# Spoken style is visavis's business, whoever the persona is.
MANNER = (
    "This is a spoken video call. Answer in one to three short sentences, as people talk: no lists, no headings, "
    "no markdown, no emoji, no stage directions. Say so if you did not understand."
)
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # never trusted as a path


class UnknownPersonaError(LookupError):
    """There is no such persona; the message names those there are."""


class PersonaError(ValueError):
    """A persona's folder is damaged; the message says what to mend."""


class FaceInfo(BaseModel):
    model_config = ConfigDict(extra="ignore")

    width: int
    height: int
    fps: float
    idle_frames: int = Field(gt=0)


class Persona(BaseModel):
    """Who speaks: name, manner, voices, face."""

    model_config = ConfigDict(extra="ignore")

    id: str
    name: str
    language: str = "en"
    voices: dict[str, str] = {}  # the voice to use with each backend of tts
    greeting: str = ""  # spoken when a call begins; empty: wait for the user
    prompt: str
    face: FaceInfo

    @property
    def system_prompt(self) -> str:
        """What the model is told before the conversation. The llm worker has it read before the first call."""
        return f"{self.prompt}\n\n{MANNER}"


def _folders() -> Iterator[Path]:
    yield store_dir() / "personas"
    yield Path(__file__).parent / "personas"


def persona_dir(persona_id: str) -> Path:
    """The folder of a persona.

    Raises:
        UnknownPersonaError: there is none of that id.
    """
    if _ID.fullmatch(persona_id):
        for folder in _folders():
            if (folder / persona_id / "persona.json").is_file():
                return folder / persona_id
    raise UnknownPersonaError(
        f"There is no persona {persona_id!r} here; there are {', '.join(persona_ids()) or 'none'}."
    )


def persona_ids() -> list[str]:
    """Every persona that is installed, by name."""
    return sorted(
        {path.parent.name for folder in _folders() for path in folder.glob("*/persona.json")}
    )


def load_persona(persona_id: str) -> Persona:
    """Reads `persona.json`.

    Raises:
        UnknownPersonaError: there is none of that id.
        PersonaError: the file is not what it should be.
    """
    path = persona_dir(persona_id) / "persona.json"
    try:
        return Persona.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, OSError) as error:
        raise PersonaError(f"{path} cannot be used: {error}") from None
