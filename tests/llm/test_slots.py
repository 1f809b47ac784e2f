"""Which session gets which slot, and who gives way to whom."""

import asyncio

import pytest

from services.llm.slots import NoFreeSlot, Overtaken, Slots
from visavis.clock import settle


async def once(slots: Slots, session_id: str) -> int:
    async with slots.generating(session_id) as index:
        return index


async def test_a_session_keeps_its_slot():
    slots = Slots(2)
    a, b = await once(slots, "a"), await once(slots, "b")
    assert a != b
    assert [await once(slots, s) for s in "abba"] == [a, b, b, a]


async def test_the_session_idle_longest_loses_its_slot():
    slots = Slots(2)
    a, b = await once(slots, "a"), await once(slots, "b")
    await once(slots, "a")
    assert await once(slots, "c") == b
    assert await once(slots, "a") == a


async def test_a_generate_stops_the_warming_of_its_session():
    slots = Slots(2)
    async with slots.warming("a") as (index, stop):
        generating = asyncio.ensure_future(once(slots, "a"))
        await settle()
        assert stop.is_set() and not generating.done()
    assert await generating == index


async def test_a_newer_warming_overtakes_an_older_one():
    slots = Slots(1)

    async def warm() -> None:
        async with slots.warming("a"):
            pass

    async with slots.warming("a") as (_, stop):
        second = asyncio.ensure_future(warm())
        await settle()
        third = asyncio.ensure_future(warm())
        await settle()
        assert stop.is_set()
    await third
    with pytest.raises(Overtaken):
        await second


async def test_a_generate_takes_a_slot_that_another_session_only_warms():
    slots = Slots(1)
    async with slots.warming("a") as (_, stop):
        generating = asyncio.ensure_future(once(slots, "b"))
        await settle()
        assert stop.is_set()
    assert await generating == 0


async def test_warming_never_takes_a_busy_slot():
    slots = Slots(2)
    async with slots.generating("a"), slots.warming("b"):
        with pytest.raises(NoFreeSlot):
            async with slots.warming("c"):
                pass


async def test_a_cancelled_wait_leaves_the_slot_usable():
    slots = Slots(1)
    async with slots.generating("a"):
        waiting = asyncio.ensure_future(once(slots, "a"))
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await once(slots, "b") == 0
