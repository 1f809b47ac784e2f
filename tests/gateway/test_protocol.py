"""What a client may send, and what it is told when it sends something else."""

import pytest

from services.gateway.protocol import (
    MAX_MIC_PACKET_BYTES,
    MAX_TEXT_FRAME_BYTES,
    MediaKind,
    MediaPacket,
    PlaybackReport,
    ProtocolError,
    check_mic_packet,
    parse_client_event,
)


def test_events_are_told_apart_by_type():
    event = parse_client_event('{"type": "playback.report", "epoch": 3, "played_ms": 12.5}')
    assert event == PlaybackReport(epoch=3, played_ms=12.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "understood"),
        ('{"type": "nonsense"}', "type"),
        ('{"type": "text.send"}', "text"),
        ('{"type": "text.send", "text": ""}', "text"),
        ('{"type": "text.send", "text": "hi", "extra": 1}', "extra"),
        ('{"type": "playback.report", "epoch": -1, "played_ms": 0}', "epoch"),
        ('{"type": "playback.report", "epoch": 1, "played_ms": NaN}', "JSON|played_ms"),
        ('{"type": "session.start", "video": {"codecs": ["av9"]}}', "codecs"),
        ("x" * (MAX_TEXT_FRAME_BYTES + 1), "characters"),
    ],
)
def test_what_is_not_understood_is_told(text: str, told: str):
    with pytest.raises(ProtocolError, match=told):
        parse_client_event(text)


def test_media_packets_survive_the_wire():
    packet = MediaPacket(MediaKind.VIDEO, 7, 40.0, b"\x01\x02", keyframe=True, loop_frame=249)
    assert MediaPacket.unpack(packet.pack()) == packet


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x09" + bytes(15)])
def test_malformed_packets_are_refused(data: bytes):
    with pytest.raises(ProtocolError):
        MediaPacket.unpack(data)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (MediaKind.SPEECH, b"\0\0"),
        (MediaKind.MIC, b""),
        (MediaKind.MIC, b"\0\0\0"),
        (MediaKind.MIC, bytes(MAX_MIC_PACKET_BYTES + 2)),
    ],
)
def test_only_sane_microphone_sound_is_taken(kind: MediaKind, payload: bytes):
    with pytest.raises(ProtocolError):
        check_mic_packet(MediaPacket(kind, 0, 0.0, payload))
