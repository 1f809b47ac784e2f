"""One file from a URL to the disk: goes on where it stopped, and is checked before it counts."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from visavis.store.sources import Offline, Remote, SourceError

CHUNK_BYTES = 1 << 20
# Tries that bring no new byte, before giving up.
FRUITLESS_TRIES = 4
FIRST_PAUSE_S = 0.5

# Called with the share of the file that is here, 0 to 1.
OnFraction = Callable[[float], None]


class Stopped(Exception):
    """The pull was called off."""


class Downloader:
    """Downloads into `folder`. A file that is not whole ends in `.part`; it is kept when the download fails."""

    def __init__(self, folder: Path, client: httpx.Client) -> None:
        self._folder = folder
        self._client = client
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends all downloads soon; what is there stays for the next run."""
        self._stopped.set()

    def location(self, remote: Remote) -> Path:
        """Where the whole file will lie: named by its content if that is known, so never stale."""
        key = remote.digest or f"url:{remote.url}"
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def fetch(self, remote: Remote, on_fraction: OnFraction) -> Path:
        """Returns the whole, checked file.

        Raises:
            Offline: The address cannot be reached.
            SourceError: It answered, but not with this file.
            Stopped: `stop` was called.
        """
        target = self.location(remote)
        if not target.exists():
            part = target.with_suffix(".part")
            resumed = part.exists()
            self._fill(remote, part, on_fraction)
            if not _matches(part, remote.digest):
                part.unlink()
                if not resumed:
                    raise SourceError(f"{remote.name} does not match its hash")
                # What lay here from before was not the start of this file.
                self._fill(remote, part, on_fraction)
                if not _matches(part, remote.digest):
                    part.unlink()
                    raise SourceError(f"{remote.name} does not match its hash")
            part.replace(target)
        on_fraction(1.0)
        return target

    def _fill(self, remote: Remote, part: Path, on_fraction: OnFraction) -> None:
        if urlsplit(remote.url).scheme == "file":
            origin = Path(url2pathname(urlsplit(remote.url).path))
            if not origin.is_file():
                raise SourceError(f"{remote.name} is not where the index says")
            shutil.copyfile(origin, part)
            return
        tries, pause_s = 0, FIRST_PAUSE_S
        while True:
            before = _size(part)
            try:
                self._stream(remote, part, on_fraction)
                return
            except httpx.TransportError as error:
                if _size(part) > before:
                    tries, pause_s = 0, FIRST_PAUSE_S
                tries += 1
                if tries >= FRUITLESS_TRIES:
                    raise Offline(f"the host of {remote.name} cannot be reached") from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise SourceError(f"{remote.name} has no usable address ({error})") from error
            self._check_stopped(pause_s)
            pause_s *= 2

    def _stream(self, remote: Remote, part: Path, on_fraction: OnFraction) -> None:
        start = _size(part)
        # Compressed on the way, the bytes could not be counted nor resumed.
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self._client.stream("GET", remote.url, headers=headers) as reply:
            if reply.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # all of it is here, or it is another file: the hash will tell
            if reply.status_code >= 500:
                raise httpx.RemoteProtocolError(f"status {reply.status_code}")
            if reply.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise SourceError(f"{remote.name} is refused with status {reply.status_code}")
            if reply.status_code == httpx.codes.OK:
                start = 0  # the server sends the whole file, asked or not
            length = start + int(reply.headers.get("Content-Length") or 0)
            with part.open("ab" if start else "wb") as file:
                for chunk in reply.iter_raw(CHUNK_BYTES):
                    file.write(chunk)
                    start += len(chunk)
                    self._check_stopped()
                    if length:
                        on_fraction(min(start / length, 1.0))

    def _check_stopped(self, wait_s: float = 0) -> None:
        if self._stopped.wait(wait_s) if wait_s else self._stopped.is_set():
            raise Stopped


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _matches(path: Path, digest: str) -> bool:
    if not digest:
        return True  # the hash of what is inside is still checked
    algorithm, _, expected = digest.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == expected
