"""`visavis call`: a call from the terminal, with a wav as the microphone or with typed text."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import numpy as np

from services.gateway import protocol
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples, read_wav, resample
from visavis.client import Caller, CallError, ReplyRecord, dial

GREETING_WAIT_MS = 3_000
ANSWER_TIMEOUT_MS = 120_000


@click.command()
@click.option("--url", default="ws://127.0.0.1:8080/v1/call", show_default=True)
@click.option("--persona", default="", help="Whom to call; empty: the server's default.")
@click.option("--wav", type=click.Path(path_type=Path), help="Speak this into the microphone.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the answer, sound and picture, as mp4."
)
def call(url: str, persona: str, wav: Path | None, out: Path | None) -> None:
    """Call a person: with --wav ask by voice, without it chat by typing."""
    codecs: list[str] = ["h264", "vp8", "jpeg"] if out is not None else []
    start = protocol.SessionStart(
        persona_id=persona, video=protocol.VideoWish.model_validate({"codecs": codecs})
    )
    try:
        if wav is not None:
            question, rate_hz = read_wav(wav)
            asyncio.run(_ask(url, start, resample(question, rate_hz, MIC_SAMPLE_RATE_HZ), out))
        else:
            asyncio.run(_chat(url, start))
    except (CallError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except TimeoutError:
        raise click.ClickException("No answer came in time.") from None


async def _ask(url: str, start: protocol.SessionStart, question: Samples, out: Path | None) -> None:
    async with dial(url, start) as caller:
        click.echo(f"{caller.started.persona.name} (an AI person) has picked up.")
        number = await hear_greeting(caller)
        spoken_ms = await caller.say(question, trailing_silence_ms=100)
        silence = asyncio.ensure_future(caller.stay_silent())
        try:
            reply = await caller.next_reply(number, ANSWER_TIMEOUT_MS)
        finally:
            silence.cancel()
    click.echo(f"you: {' '.join(caller.user_texts)}")
    click.echo(f"{caller.started.persona.name}: {reply.text.strip()}")
    _print_timings(reply, spoken_ms)
    if out is not None:
        from visavis.recording import write_mp4

        assert caller.started.video is not None  # it was asked for
        write_mp4(out, reply, caller.started.video)
        click.echo(f"written: {out}")


async def hear_greeting(caller: Caller) -> int:
    """Lets the persona's greeting end, with an open microphone; returns the number of the next reply."""
    silence = asyncio.ensure_future(caller.stay_silent())
    try:
        await caller.wait_for(lambda: bool(caller.replies), GREETING_WAIT_MS)
        await caller.next_reply(0)
        return 1
    except TimeoutError:
        return 0  # this persona waits for the user
    finally:
        silence.cancel()


def _print_timings(reply: ReplyRecord, spoken_ms: float) -> None:
    if reply.audible_ms is not None:
        click.echo(f"voice to voice: {reply.audible_ms - spoken_ms:.0f} ms")
    if reply.first_shown_ms is not None:
        click.echo(f"first picture:  {reply.first_shown_ms - spoken_ms:.0f} ms")
        offsets = [abs(offset) for _, offset in reply.shown]
        click.echo(
            f"pictures: {len(reply.shown)} shown, {reply.dropped_pictures} dropped,"
            f" sound and picture {np.median(offsets):.0f} ms apart (median)"
        )
    for point, elapsed_ms in sorted(reply.timings_ms.items(), key=lambda item: item[1]):
        click.echo(f"  {point:<18}{elapsed_ms:7.0f} ms after your last word")


async def _chat(url: str, start: protocol.SessionStart) -> None:
    def show(event: protocol.ServerEvent) -> None:
        match event:
            case protocol.ReplyClause():
                click.echo(event.text, nl=False)
            case protocol.ReplyEnded():
                click.echo("\n> ", nl=False)
            case protocol.ErrorEvent():
                click.echo(f"\n[{event.message}]", err=True)

    async with dial(url, start, show) as caller:
        click.echo(f"{caller.started.persona.name} is an AI person. Type; an empty line hangs up.")
        await hear_greeting(caller)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            number = len(caller.replies)
            await caller.send_text(line)
            await caller.next_reply(number, ANSWER_TIMEOUT_MS)
