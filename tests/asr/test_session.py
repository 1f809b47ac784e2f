"""What a session writes about what it hears. Time is the sound's; the ear is the fake one."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest

from services.asr.backends.fake import FakeBackend, tone
from services.asr.endpointing import Sound, quietest_moment
from services.asr.partials import PartialText
from services.asr.settings import Settings
from tests.asr.listening import GAP_MS, WORD_MS, listening, silence, speech
from visavis.v1.asr_pb2 import MicMessage
from visavis.v1.common_pb2 import AudioChunk


async def test_a_pause_is_told_then_judged_then_put_into_words():
    async with listening(FakeBackend(end_of_turn=0.75)) as ear:
        await ear.hear(silence(1000))
        await ear.hear(speech("alpha bravo charlie"))
        await ear.hear(silence(400))
        final = (await ear.next("final")).final
    assert ear.kinds == ["speech_started", "speech_stopped", "end_of_turn", "final"]
    assert final.text == "alpha bravo charlie"
    end_ms = 1000 + 3 * WORD_MS + 2 * GAP_MS
    assert ear.of("speech_started")[0].speech_started.at_ms == pytest.approx(1000, abs=32)
    assert ear.of("speech_stopped")[0].speech_stopped.at_ms == pytest.approx(end_ms, abs=32)
    end_of_turn = ear.of("end_of_turn")[0].end_of_turn
    assert end_of_turn.probability == 0.75
    assert end_of_turn.at_ms == final.end_ms == ear.of("speech_stopped")[0].speech_stopped.at_ms
    assert final.start_ms == ear.of("speech_started")[0].speech_started.at_ms
    assert len(ear.latencies) == 1


async def test_going_on_after_a_pause_replaces_the_text_of_the_whole_turn():
    async with listening() as ear:
        await ear.hear(speech("alpha bravo"))
        await ear.hear(silence(500))
        await ear.next("final")
        await ear.hear(speech("charlie"))
        await ear.hear(silence(500))
        second = (await ear.next("final", 2)).final
    assert ear.finals == ["alpha bravo", "alpha bravo charlie"]
    assert second.start_ms == pytest.approx(0, abs=32)


async def test_a_gap_between_words_leads_to_nothing():
    """The passes that start early, on the chance, are thrown away."""
    async with listening(FakeBackend(delay_ms=20)) as ear:
        for _ in range(4):
            await ear.hear(tone("echo", WORD_MS))
            await ear.hear(silence(130))
        await ear.hear(silence(300))
        await ear.next("final")
    assert ear.kinds == ["speech_started", "speech_stopped", "end_of_turn", "final"]
    assert ear.finals == ["echo echo echo echo"]


async def test_speaking_on_during_the_final_pass_withdraws_it():
    async with listening(FakeBackend(delay_ms=100)) as ear:
        await ear.hear(speech("alpha"))
        await ear.hear(silence(220))
        await ear.next("speech_stopped")
        await ear.hear(speech("bravo"))
        await ear.hear(silence(400))
        await ear.next("final")
        await asyncio.sleep(0.15)
    assert ear.finals == ["alpha bravo"]


async def test_the_final_pass_starts_before_the_pause_is_certain():
    """Half-way into the silence nothing is told yet, and the pass is already done when it is."""
    async with listening(FakeBackend(delay_ms=50)) as ear:
        await ear.hear(speech("alpha"))
        await ear.hear(silence(150))
        await asyncio.sleep(0.15)
        assert ear.kinds == ["speech_started"]
        ear.session._recognizer._backend.delay_ms = 10_000  # type: ignore[attr-defined]
        await ear.hear(silence(100))
        await ear.next("final")
    assert ear.finals == ["alpha"]


async def test_a_new_turn_starts_anew():
    async with listening() as ear:
        await ear.hear(speech("alpha bravo"))
        await ear.hear(silence(500))
        first = (await ear.next("final")).final
        await ear.user_turn_ended(first.end_ms)
        await ear.hear(silence(500))
        await ear.hear(speech("charlie"))
        await ear.hear(silence(500))
        await ear.next("final", 2)
    assert ear.finals == ["alpha bravo", "charlie"]


async def test_a_final_in_flight_is_not_written_into_the_next_turn():
    async with listening(FakeBackend(delay_ms=150)) as ear:
        await ear.hear(speech("alpha bravo"))
        await ear.hear(silence(250))
        stopped = (await ear.next("speech_stopped")).speech_stopped
        await ear.user_turn_ended(stopped.at_ms)
        await asyncio.sleep(0.2)
        await ear.hear(speech("charlie"))
        await ear.hear(silence(250))
        await ear.next("final")
    assert ear.finals == ["charlie"]


async def test_a_turn_taken_in_the_middle_of_speech_keeps_what_is_said_after():
    async with listening() as ear:
        await ear.hear(speech("alpha bravo"))
        await ear.hear(silence(GAP_MS))
        await ear.user_turn_ended(2 * (WORD_MS + GAP_MS) - GAP_MS / 2)
        await ear.hear(speech("charlie delta"))
        await ear.hear(silence(300))
        await ear.next("final")
    assert ear.finals == ["charlie delta"]


async def test_a_turn_taken_late_keeps_what_was_said_since():
    """The pause being judged belongs to the new turn: it is judged again, without the old sound."""
    async with listening(FakeBackend(delay_ms=100)) as ear:
        await ear.hear(speech("alpha"))
        await ear.hear(silence(400))
        first = (await ear.next("final")).final
        await ear.hear(speech("bravo"))
        await ear.hear(silence(250))
        await ear.next("speech_stopped", 2)
        await ear.user_turn_ended(first.end_ms)
        await ear.next("final", 2)
    assert ear.finals == ["alpha", "bravo"]


async def test_partials_grow_and_come_once_for_each_text():
    async with listening() as ear:
        for word in ["alpha", "bravo", "charlie", "delta", "echo"]:
            await ear.hear(tone(word, WORD_MS))
            await ear.hear(silence(GAP_MS))
            await asyncio.sleep(0.02)
        await ear.hear(silence(300))
        await ear.next("final")
    texts = [m.partial.text for m in ear.of("partial")]
    assert len(texts) >= 3
    assert len(set(texts)) == len(texts)
    assert all(len(a.split()) <= len(b.split()) for a, b in pairwise(texts))
    assert "alpha bravo charlie delta echo".startswith(texts[-1])


async def test_a_click_and_noise_give_no_words():
    rng = np.random.default_rng(0)
    click = silence(1000)
    click[8000] = 1.0
    async with listening() as ear:
        await ear.hear(click)
        await ear.hear((0.005 * rng.standard_normal(16_000)).astype(np.float32))
        await ear.end()
    assert ear.kinds == ["end"]


async def test_the_end_of_the_microphone_ends_speech_too():
    async with listening() as ear:
        await ear.hear(speech("golf hotel"))
        await ear.end()
    assert ear.kinds == ["speech_started", "speech_stopped", "end_of_turn", "final", "end"]
    assert ear.finals == ["golf hotel"]


async def test_a_hole_in_the_times_counts_as_silence():
    """Times stay those of the microphone when chunks are missing, as after a mute."""
    async with listening() as ear:
        await ear.hear(speech("alpha"))
        ear._now_ms += 60_000
        await ear.hear(speech("bravo"))
        await ear.hear(silence(300))
        await ear.next("final", 2)
    started = [m.speech_started.at_ms for m in ear.of("speech_started")]
    assert started[1] == pytest.approx(60_000 + WORD_MS, abs=32)


async def test_long_silence_settles_the_text_and_lets_the_sound_go():
    async with listening() as ear:
        await ear.hear(speech("alpha bravo"))
        await ear.hear(silence(300))
        await ear.next("final")
        await ear.hear(silence(10_000))
        assert ear.session._sound.end - ear.session._sound.begin < 16_000
        await ear.hear(speech("charlie"))
        await ear.hear(silence(300))
        second = (await ear.next("final", 2)).final
    assert second.text == "alpha bravo charlie"
    assert second.start_ms == pytest.approx(0, abs=32)


async def test_a_cough_is_forgotten():
    """A final without words drops its sound: the next one does not begin with it."""

    class DeafBackend(FakeBackend):
        def open(self, language: str):  # type: ignore[no-untyped-def]
            recognizer = super().open(language)
            recognizer.final_text = lambda samples: ""  # type: ignore[method-assign]
            return recognizer

    async with listening(DeafBackend()) as ear:
        await ear.hear(speech("alpha"))
        await ear.hear(silence(300))
        await ear.next("final")
        await ear.hear(silence(100))
        assert ear.session._sound.end - ear.session._sound.begin < 16_000
    assert ear.finals == [""]


@pytest.mark.parametrize("gap_ms", [40, 250])
async def test_a_monologue_of_an_hour_runs_in_constant_memory(gap_ms: float):
    """Without pauses and with them, every word comes out once and in order."""
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]
    said: list[str] = []
    longest = 0
    async with listening() as ear:
        for index in range(3600 * 1000 // (500 * 20)):
            picked = [words[(index + i) % len(words)] for i in range(20)]
            said += picked
            block = [part for w in picked for part in (tone(w, 500 - gap_ms), silence(gap_ms))]
            await ear.hear(np.concatenate(block), chunk_ms=1000)
            longest = max(longest, ear.session._sound.end - ear.session._sound.begin)
        await ear.end()
    assert longest <= 16_000 * 55
    assert ear.finals[-1].split() == said


async def test_odd_pcm_and_a_wrong_rate_are_refused():
    for chunk, message in (
        (AudioChunk(pcm=b"\0\0\0", sample_rate_hz=16_000), "whole 16 bit samples"),
        (AudioChunk(pcm=b"\0\0", sample_rate_hz=48_000), "Resample"),
        (AudioChunk(pcm=b"\0\0", sample_rate_hz=16_000, pts_ms=1e12), "pts_ms jumps"),
    ):
        async with listening() as ear:
            await ear.hear(silence(20))
            await ear.put(MicMessage(audio=chunk))
            with pytest.raises(ExceptionGroup) as error:
                await ear.running
            assert message in str(error.value.exceptions[0])


def test_partials_hold_what_two_guesses_agree_on():
    text = PartialText(0)
    assert text.accept("And Mr. John.") == "And Mr. John"
    assert text.accept("And Mr. John Dashwood,") == "And Mr. John Dashwood"
    assert text.accept("And.") is None  # shorter than what was agreed on
    assert text.accept("And Mr. John Dashwood had then, Lee, Lee, Lee, L") == (
        "And Mr. John Dashwood had then, Lee"
    )
    assert text.accept("And Mr. John Dashwood had then leisure.") == (
        "And Mr. John Dashwood had then leisure"
    )
    assert text.accept("And Mr. John Dashwood had then leisure") is None
    text.settle("And Mr. John Dashwood had then leisure.", 16_000)
    assert text.accept("to consider") == "And Mr. John Dashwood had then leisure. to consider"


def test_sound_is_addressed_by_position():
    sound = Sound()
    for begin in range(0, 100, 10):
        sound.append(np.arange(begin, begin + 10, dtype=np.float32))
    sound.drop_before(25)
    assert (sound.begin, sound.end) == (25, 100)
    assert sound.between(20, 32).tolist() == [25, 26, 27, 28, 29, 30, 31]
    assert sound.between(95, 200).tolist() == [95, 96, 97, 98, 99]
    sound.drop_before(1000)
    assert (sound.begin, sound.end) == (100, 100)


def test_the_quietest_moment_is_found_in_the_last_seconds():
    sound = np.ones(16_000 * 10, np.float32)
    sound[16_000:20_000] = 0  # too early
    sound[16_000 * 7 : 16_000 * 7 + 3200] = 0.1
    assert quietest_moment(sound, 5) == pytest.approx(16_000 * 7 + 1600, abs=960)


def test_settings_have_the_services_prefix(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ASR_STOP_MS", "256")
    assert Settings().stop_ms == 256
