import socket
from pathlib import Path

import pytest
import redis

from visavis import redis_server
from visavis.redis_server import RedisError, start_redis


def test_the_server_speaks_streams_and_keeps_nothing(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.xadd("s", {"k": "v"})
        assert client.xlen("s") == 1
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("maxmemory") == {"maxmemory": str(512 * 1024 * 1024)}
    assert [path.name for path in tmp_path.iterdir()] == ["redis.log"]


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_two_servers_get_two_ports(tmp_path: Path) -> None:
    with start_redis(tmp_path / "a") as one, start_redis(tmp_path / "b") as two:
        assert one.port != two.port


def test_stop_ends_the_process_and_may_be_called_twice(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    server.stop()
    server.stop()
    assert server.process.returncode is not None
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RedisError, match="did not start"):
            start_redis(tmp_path, port=taken.getsockname()[1])


def test_a_lost_race_for_the_port_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = redis_server._free_port
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(redis_server, "_free_port", lambda: next(ports, None) or free())
        with start_redis(tmp_path) as server:
            assert server.port != taken.getsockname()[1]


def test_without_a_server_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RedisError, match=r"REDIS_URL.*pip install 'visavis\[run\]'"):
        start_redis(tmp_path)


def test_falls_back_to_a_server_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: "bin/x" if name == "valkey-server" else None)
    assert redis_server.find_binary() == Path("bin/x")
