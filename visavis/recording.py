"""Writes a reply as a film: its pictures and its sound, on one clock."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from services.gateway.protocol import VideoFormat
from visavis.client import Picture, ReplyRecord

BGR = NDArray[np.uint8]  # [height, width, 3]
DECODERS = {"h264": "h264", "vp8": "vp8"}


def decode_pictures(pictures: list[Picture], codec: str) -> Iterator[tuple[float, BGR]]:
    """The pictures of one reply as (pts_ms, pixels), in order."""
    if codec == "jpeg":
        for picture in pictures:
            coded = np.frombuffer(picture.data, np.uint8)
            yield picture.pts_ms, cast(BGR, cv2.imdecode(coded, cv2.IMREAD_COLOR))
        return
    decoder = av.CodecContext.create(DECODERS[codec], "r")
    times = iter(picture.pts_ms for picture in pictures)
    for data in (*(picture.data for picture in pictures), None):
        for frame in decoder.decode(av.Packet(data) if data is not None else None):
            yield next(times), cast(BGR, frame.to_ndarray(format="bgr24"))


def write_mp4(path: Path, reply: ReplyRecord, video: VideoFormat) -> None:
    """H.264 and AAC. A reply without pictures becomes a film of sound alone."""
    with av.open(str(path), "w") as film:
        pictures = list(decode_pictures(reply.pictures, video.codec))
        screen = film.add_stream("h264", rate=round(video.fps), options={"crf": "18"})
        screen.width = screen.height = video.size_px
        screen.pix_fmt = "yuv420p"
        screen.time_base = Fraction(1, 1000)
        speaker = film.add_stream("aac", rate=reply.sample_rate_hz)
        for pts_ms, pixels in pictures:
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            frame.pts, frame.time_base = round(pts_ms), Fraction(1, 1000)
            film.mux(screen.encode(frame))
        film.mux(screen.encode(None))
        sound = av.AudioFrame.from_ndarray(
            np.frombuffer(bytes(reply.pcm), "<i2")[None, :], format="s16", layout="mono"
        )
        sound.sample_rate, sound.pts = reply.sample_rate_hz, 0
        film.mux(speaker.encode(sound))
        film.mux(speaker.encode(None))
