"""What is encoded can be decoded, looks the same, and comes without delay."""

import av
import cv2
import numpy as np
import pytest

from services.talkinghead import codec
from services.talkinghead.codec import KEYFRAME_INTERVAL, EncodedFrame, Encoder, open_encoder
from visavis.v1.talkinghead_pb2 import (
    VIDEO_CODEC_H264,
    VIDEO_CODEC_JPEG,
    VIDEO_CODEC_UNSPECIFIED,
    VIDEO_CODEC_VP8,
    VideoFormat,
)

CODECS = [VIDEO_CODEC_H264, VIDEO_CODEC_VP8, VIDEO_CODEC_JPEG]
DECODERS = {VIDEO_CODEC_H264: "h264", VIDEO_CODEC_VP8: "vp8", VIDEO_CODEC_JPEG: "mjpeg"}


def pictures(count: int, size_px: int = 512) -> list[np.ndarray]:
    """A soft background that sways, and a red mouth that opens and closes."""
    noise = np.random.default_rng(0).integers(0, 255, (size_px, size_px, 3), np.uint8)
    still = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8), None, 0, 255, cv2.NORM_MINMAX)
    moving = []
    for index in range(count):
        shift = np.array([[1, 0, 3 * np.sin(index / 8)], [0, 1, 0]], np.float32)
        picture = cv2.warpAffine(still, shift, (size_px, size_px), borderMode=cv2.BORDER_REFLECT)
        centre, open_px = (size_px // 2, size_px * 2 // 3), int(4 + 20 * abs(np.sin(index / 3)))
        moving.append(cv2.ellipse(picture, centre, (40, open_px), 0, 0, 360, (30, 20, 120), -1))
    return moving


def encode(encoder: Encoder, pictures: list[np.ndarray]) -> list[EncodedFrame]:
    return [encoder.encode(picture, index) for index, picture in enumerate(pictures)]


def decode(video_codec: int, frames: list[EncodedFrame]) -> list[np.ndarray]:
    decoder = av.CodecContext.create(DECODERS[video_codec], "r")
    decoder.thread_count = 1
    packets = [av.Packet(frame.data) for frame in frames]
    return [
        picture.to_ndarray(format="bgr24")
        for packet in [*packets, None]
        for picture in decoder.decode(packet)
    ]


@pytest.mark.parametrize("video_codec", CODECS)
def test_decodes_back_to_what_went_in(video_codec: int):
    originals = pictures(30)
    frames = encode(open_encoder(VideoFormat(codec=video_codec, size_px=512)), originals)
    decoded = decode(video_codec, frames)
    assert len(decoded) == len(originals)
    assert min(map(cv2.PSNR, originals, decoded)) > 30


@pytest.mark.parametrize("video_codec", CODECS)
def test_colours_survive(video_codec: int):
    """No tint and no change of range (that would be 16): the reply lies over the idle loop without a seam."""
    patches = [(16, 16, 16), (235, 235, 235), (40, 40, 200), (200, 60, 40), (90, 150, 190)]
    originals = [np.full((256, 256, 3), patch, np.uint8) for patch in patches]
    frames = encode(open_encoder(VideoFormat(codec=video_codec, size_px=256)), originals)
    for patch, picture in zip(patches, decode(video_codec, frames), strict=True):
        assert np.abs(picture.mean(axis=(0, 1)) - patch).max() < 6


@pytest.mark.parametrize("video_codec", [VIDEO_CODEC_H264, VIDEO_CODEC_VP8])
def test_begins_with_a_keyframe_and_repeats_it_now_and_then(video_codec: int):
    encoder = open_encoder(VideoFormat(codec=video_codec, size_px=128))
    frames = encode(encoder, pictures(2 * KEYFRAME_INTERVAL, 128))
    keyframes = [index for index, frame in enumerate(frames) if frame.keyframe]
    assert keyframes == [0, KEYFRAME_INTERVAL]
    assert len(decode(video_codec, frames[KEYFRAME_INTERVAL:])) == KEYFRAME_INTERVAL


@pytest.mark.parametrize("video_codec", CODECS)
def test_dropped_pictures_leave_no_hole(video_codec: int):
    """One packet for each picture that is encoded, whatever its number."""
    encoder = open_encoder(VideoFormat(codec=video_codec, size_px=128))
    numbers = [0, 1, 2, 9, 10, 30]
    frames = [
        encoder.encode(p, n) for p, n in zip(pictures(len(numbers), 128), numbers, strict=True)
    ]
    assert len(decode(video_codec, frames)) == len(numbers)


@pytest.mark.parametrize("video_codec", CODECS)
def test_scales_to_the_size_that_is_asked_for(video_codec: int):
    encoder = open_encoder(VideoFormat(codec=video_codec, size_px=256))
    (picture,) = decode(video_codec, encode(encoder, pictures(1)))
    assert picture.shape == (256, 256, 3)


def test_h264_is_constrained_baseline_annex_b_with_its_headers():
    encoder = open_encoder(VideoFormat(codec=VIDEO_CODEC_H264, size_px=512))
    (frame,) = encode(encoder, pictures(1))
    assert frame.data.startswith(b"\0\0\0\1\x67")  # a sequence parameter set comes first
    profile, constraints, level = frame.data[5:8]
    assert profile == 66 and constraints & 0x40 and level <= 31


@pytest.mark.parametrize(
    ("video_codec", "size_px", "message"),
    [
        (VIDEO_CODEC_UNSPECIFIED, 512, "choose one of h264, vp8, jpeg"),
        (9, 512, "choose one of"),
        (VIDEO_CODEC_H264, 0, "an even number"),
        (VIDEO_CODEC_VP8, 301, "an even number"),
        (VIDEO_CODEC_JPEG, 4096, "an even number"),
    ],
)
def test_refuses_other_formats(video_codec: int, size_px: int, message: str):
    with pytest.raises(ValueError, match=message):
        open_encoder(VideoFormat(codec=video_codec, size_px=size_px))


def test_without_libx264_another_h264_encoder_is_taken_or_none(monkeypatch: pytest.MonkeyPatch):
    """A build of FFmpeg without GPL parts has libopenh264, or no H.264 at all."""
    monkeypatch.setattr(codec.av, "codecs_available", {"libopenh264", "libvpx"})
    assert codec.library_for(VIDEO_CODEC_H264) == "libopenh264"
    monkeypatch.setattr(codec.av, "codecs_available", {"libvpx"})
    assert codec.available_codecs() == ["vp8", "jpeg"]
    with pytest.raises(ValueError, match="choose one of vp8, jpeg"):
        open_encoder(VideoFormat(codec=VIDEO_CODEC_H264, size_px=512))
