"""Encodes pictures for the client: H.264, VP8 or JPEG, one packet per picture and no delay.

An encoder is made for one turn and thrown away, so that each turn starts with a keyframe. It uses one
thread: sessions run beside each other, and a picture of half a megapixel takes a few milliseconds.

Colours are BT.601 in the limited range (JPEG: full range, as JFIF says), which is what browsers assume for
pictures of this size; H.264 says so in its headers too. Otherwise a reply would be tinted against the idle
loop that it is drawn over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, cast

import av
import cv2

from services.talkinghead.backend import FPS, Picture
from visavis.v1.talkinghead_pb2 import (
    VIDEO_CODEC_H264,
    VIDEO_CODEC_JPEG,
    VIDEO_CODEC_VP8,
    VideoFormat,
)

KEYFRAME_INTERVAL = 2 * FPS  # where a client that fell behind may take up again
JPEG_QUALITY = 80
VP8_BITS_PER_PIXEL = 0.18  # 1.2 Mbit/s at 512 x 512; what a talking head does not need is not used
MIN_SIZE_PX = 64
MAX_SIZE_PX = 1024

# FFmpeg's numbers for BT.601 and for the range 16 to 235.
_SMPTE170M = 6
_LIMITED_RANGE = 1

_X264_OPTIONS = {
    "preset": "superfast",
    "tune": "zerolatency",
    "crf": "23",
    "profile": "baseline",
    "sc_threshold": "0",
}
# libopenh264 encodes constrained baseline only, and has no constant quality.
_OPENH264_OPTIONS = {"profile": "constrained_baseline", "allow_skip_frames": "0"}
_VPX_OPTIONS = {
    "deadline": "realtime",
    "cpu-used": "8",
    "lag-in-frames": "0",
    "qmin": "4",
    "qmax": "40",
}
# Encoder libraries in order of preference, with their options. libx264 is GPL: see README.md.
_LIBRARIES: Mapping[int, Mapping[str, Mapping[str, str]]] = {
    VIDEO_CODEC_H264: {"libx264": _X264_OPTIONS, "libopenh264": _OPENH264_OPTIONS},
    VIDEO_CODEC_VP8: {"libvpx": _VPX_OPTIONS},
}
NAMES: Mapping[int, str] = {
    VIDEO_CODEC_H264: "h264",
    VIDEO_CODEC_VP8: "vp8",
    VIDEO_CODEC_JPEG: "jpeg",
}


@dataclass(frozen=True)
class EncodedFrame:
    data: bytes
    keyframe: bool


class Encoder(Protocol):
    def encode(self, picture: Picture, index: int) -> EncodedFrame:
        """Encodes the picture with this number; numbers grow, and may skip. Blocks for milliseconds."""


def library_for(codec: int) -> str | None:
    """The encoder library of this machine for a video codec, or None."""
    return next((name for name in _LIBRARIES.get(codec, ()) if name in av.codecs_available), None)


def available_codecs() -> list[str]:
    """What this machine can encode, best first."""
    return [
        name
        for codec, name in NAMES.items()
        if codec == VIDEO_CODEC_JPEG or library_for(codec) is not None
    ]


def open_encoder(format: VideoFormat) -> Encoder:
    """Makes the encoder of one turn.

    Raises:
        ValueError: the format is not one that this machine can encode; the message says what it can.
    """
    if NAMES.get(format.codec) not in available_codecs():
        raise ValueError(
            f"format.codec is {NAMES.get(format.codec, format.codec)}: choose one of "
            f"{', '.join(available_codecs())}."
        )
    if not MIN_SIZE_PX <= format.size_px <= MAX_SIZE_PX or format.size_px % 2:
        raise ValueError(
            f"format.size_px is {format.size_px}: choose an even number from {MIN_SIZE_PX} to {MAX_SIZE_PX}."
        )
    if format.codec == VIDEO_CODEC_JPEG:
        return JpegEncoder(format.size_px)
    library = cast(str, library_for(format.codec))
    return VideoEncoder(library, _LIBRARIES[format.codec][library], format.size_px)


class VideoEncoder:
    """H.264 or VP8 through FFmpeg's libraries."""

    def __init__(self, library: str, options: Mapping[str, str], size_px: int) -> None:
        self._size_px = size_px
        context = cast(av.VideoCodecContext, av.CodecContext.create(library, "w"))
        context.width = context.height = size_px
        context.pix_fmt = "yuv420p"
        context.framerate = Fraction(FPS)
        context.time_base = Fraction(1, FPS)
        context.gop_size = KEYFRAME_INTERVAL
        context.max_b_frames = 0
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M
        context.color_range = _LIMITED_RANGE
        if "crf" not in options:
            context.bit_rate = int(VP8_BITS_PER_PIXEL * FPS * size_px * size_px)
        context.options = dict(options)
        context.open()  # here, in a worker thread, and not with the first picture
        self._context = context

    def encode(self, picture: Picture, index: int) -> EncodedFrame:
        planes = cv2.cvtColor(scaled(picture, self._size_px), cv2.COLOR_BGR2YUV_I420)
        frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
        frame.pts = index
        (packet,) = self._context.encode(frame)  # zero latency: one in, one out
        return EncodedFrame(bytes(packet), packet.is_keyframe)


class JpegEncoder:
    """Each picture by itself: four to six times the bytes, for clients that can decode nothing else."""

    def __init__(self, size_px: int) -> None:
        self._size_px = size_px

    def encode(self, picture: Picture, index: int) -> EncodedFrame:
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        done, data = cv2.imencode(".jpg", scaled(picture, self._size_px), quality)
        assert done  # only fails on pictures that are not BGR uint8
        return EncodedFrame(data.tobytes(), True)


def scaled(picture: Picture, size_px: int) -> Picture:
    """The picture at the size that is asked for; itself if it has it."""
    if picture.shape[:2] == (size_px, size_px):
        return picture
    resized = cv2.resize(picture, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return cast(Picture, resized)
