"""The protocol has the same names and fields in Python and in TypeScript, and the same bytes."""

import dataclasses
import re
import types
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from services.gateway import protocol

WEB = Path(protocol.__file__).parent / "web"
TYPESCRIPT = (WEB / "src" / "protocol.ts").read_text()
# Packed by `web/test/protocol.test.ts` too.
SHARED_PACKET = protocol.MediaPacket(
    protocol.MediaKind.VIDEO, 7, 85.0, b"\x01\x02\x03\x04", keyframe=True, loop_frame=700
)
SHARED_VECTOR = "0301bc0207000000000000000040554001020304"


def python_classes() -> dict[str, type[BaseModel]]:
    return {
        name: value
        for name, value in vars(protocol).items()
        if isinstance(value, type)
        and issubclass(value, protocol.Event)
        and value is not protocol.Event
    }


def typescript_interfaces() -> dict[str, dict[str, str]]:
    """Each exported interface: its fields and their types, spaces and comments taken out."""
    interfaces = {}
    for name, body in re.findall(r"export interface (\w+) \{(.*?)\n\}", TYPESCRIPT, re.DOTALL):
        body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
        fields = re.findall(r"^  (\w+\??):(.*?);$", body, re.DOTALL | re.MULTILINE)
        interfaces[name] = {field: re.sub(r"\s+", "", kind).lstrip("|") for field, kind in fields}
    return interfaces


def typescript_union(name: str) -> set[str]:
    match = re.search(rf"export type {name} =(.*?);", TYPESCRIPT, re.DOTALL)
    assert match, f"protocol.ts has no type {name}"
    return {part.strip(" '\n") for part in match[1].split("|")} - {""}


def python_union(union: object) -> set[str]:
    return {part.__name__ for part in typing.get_args(typing.get_args(union)[0])}


def in_typescript(annotation: object) -> str:
    """How a Python type is written in protocol.ts."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return in_typescript(arguments[0])
    if origin is typing.Literal:
        quoted = "|".join(f"'{value}'" for value in arguments)
        return "Codec" if set(arguments) == typescript_union("Codec") else quoted
    if origin in (typing.Union, types.UnionType):
        return "|".join(in_typescript(part) for part in arguments)
    if origin is list:
        return f"{in_typescript(arguments[0])}[]"
    if origin is dict:
        return f"Record<{in_typescript(arguments[0])},{in_typescript(arguments[1])}>"
    names = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
    return names.get(annotation) or annotation.__name__  # type: ignore[call-overload, attr-defined, no-any-return]


def test_the_same_events_in_each_direction() -> None:
    assert typescript_union("ClientEvent") == python_union(protocol.ClientEvent)
    assert typescript_union("ServerEvent") == python_union(protocol.ServerEvent)


def test_every_typescript_interface_has_its_python_class() -> None:
    known = {*python_classes(), protocol.MediaPacket.__name__}
    assert set(typescript_interfaces()) == known


@pytest.mark.parametrize("name", python_classes())
def test_the_same_fields_of_the_same_types(name: str) -> None:
    python = {
        field: in_typescript(info.annotation)
        for field, info in python_classes()[name].model_fields.items()
    }
    assert typescript_interfaces()[name] == python


def test_a_media_packet_has_the_same_fields() -> None:
    python = {field.name for field in dataclasses.fields(protocol.MediaPacket)}
    assert set(typescript_interfaces()["MediaPacket"]) == python


def test_the_same_constants() -> None:
    for name in ("PROTOCOL_VERSION", "MAX_TYPED_TEXT_CHARS"):
        match = re.search(rf"export const {name} = (\d+);", TYPESCRIPT)
        assert match and int(match[1]) == getattr(protocol, name)
    match = re.search(r"export const MediaKind = \{(.*?)\}", TYPESCRIPT)
    assert match
    kinds = {name: int(value) for name, value in re.findall(r"(\w+): (\d+)", match[1])}
    assert kinds == {kind.name: kind.value for kind in protocol.MediaKind}


def test_a_media_packet_is_the_same_bytes() -> None:
    assert SHARED_PACKET.pack().hex() == SHARED_VECTOR
    assert protocol.MediaPacket.unpack(bytes.fromhex(SHARED_VECTOR)) == SHARED_PACKET
    assert f"'{SHARED_VECTOR}'" in (WEB / "test" / "protocol.test.ts").read_text()
