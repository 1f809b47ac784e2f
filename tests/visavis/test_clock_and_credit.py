"""Time that a test moves by hand, and credit."""

import asyncio

import pytest

from visavis.clock import ManualClock, settle
from visavis.credit import Credit


async def test_sleepers_wake_in_the_order_of_their_times():
    clock, woken = ManualClock(), []

    async def sleeper(duration_ms: float) -> None:
        await clock.sleep_ms(duration_ms)
        woken.append((duration_ms, clock.now_ms()))

    tasks = [asyncio.create_task(sleeper(d)) for d in (300, 100, 200)]
    await clock.advance_ms(250)
    assert woken == [(100, 100), (200, 200)]
    await clock.advance_ms(100)
    assert woken[-1] == (300, 300) and clock.now_ms() == 350
    await asyncio.gather(*tasks)


async def test_a_cancelled_sleeper_does_not_hold_up_the_clock():
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep_ms(100))
    await settle()
    task.cancel()
    await clock.advance_ms(200)
    assert clock.now_ms() == 200


async def test_output_waits_for_the_ear():
    credit = Credit(lead_ms=500)
    await credit.wait_until_due(500)
    waiting = asyncio.create_task(credit.wait_until_due(700))
    await settle()
    assert not waiting.done()
    credit.played(100)
    await settle()
    assert not waiting.done()
    credit.played(200)
    await asyncio.wait_for(waiting, 1)


async def test_the_ear_never_goes_back():
    credit = Credit(lead_ms=100)
    credit.played(500)
    credit.played(300)
    assert credit.played_ms == 500


async def test_without_a_limit_nothing_waits():
    await asyncio.wait_for(Credit(lead_ms=0).wait_until_due(1e9), 1)


@pytest.mark.parametrize("lead_ms", [1.0, 1e6])
async def test_cancelling_while_waiting_is_clean(lead_ms: float):
    waiting = asyncio.create_task(Credit(lead_ms).wait_until_due(2e6))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
