"""Which session's prompt lies in which cache slot of the model.

A session keeps its slot, so that each turn finds the conversation so far already read. When there are more
sessions than slots, the one that has been idle longest loses its slot (and pays with a cold start).
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field


class NoFreeSlot(Exception):
    """Every slot is generating for another session."""


class Overtaken(Exception):
    """A Generate or a newer Warm needs the slot: the warming is given up."""


@dataclass(eq=False)
class _Slot:
    index: int
    session_id: str = ""
    last_used: int = 0
    generating: int = 0  # calls that hold or await `turn`
    warming: set[threading.Event] = field(
        default_factory=set
    )  # the stop of each that holds or awaits
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # one call at a time

    def stop_warming(self) -> None:
        for stop in self.warming:
            stop.set()


class Slots:
    def __init__(self, count: int) -> None:
        self._slots = [_Slot(index) for index in range(count)]
        self._uses = itertools.count(1)

    @asynccontextmanager
    async def generating(self, session_id: str) -> AsyncIterator[int]:
        """Holds the session's slot. Stops a warming that has it; waits for a Generate that has it.

        Raises:
            NoFreeSlot: cannot happen while no more calls generate than there are slots.
        """
        slot = self._take(session_id, [slot for slot in self._slots if not slot.generating])
        slot.generating += 1
        try:
            slot.stop_warming()
            async with slot.turn:
                yield slot.index
        finally:
            slot.generating -= 1

    @asynccontextmanager
    async def warming(self, session_id: str) -> AsyncIterator[tuple[int, threading.Event]]:
        """Holds the session's slot until `stop`, given with it, is set: a Generate or a newer Warm came.

        Raises:
            NoFreeSlot: every slot is busy with another session.
            Overtaken: one of them came while this waited.
        """
        idle = [slot for slot in self._slots if not slot.generating and not slot.warming]
        slot = self._take(session_id, idle)
        slot.stop_warming()
        with self._registered(slot) as stop:
            async with slot.turn:
                if stop.is_set():
                    raise Overtaken
                yield slot.index, stop

    @contextmanager
    def _registered(self, slot: _Slot) -> Iterator[threading.Event]:
        stop = threading.Event()
        slot.warming.add(stop)
        try:
            yield stop
        finally:
            slot.warming.discard(stop)

    def _take(self, session_id: str, free: list[_Slot]) -> _Slot:
        """The slot of the session, else the one among `free` that has been idle longest."""
        mine = [slot for slot in self._slots if slot.session_id == session_id]
        if not mine and not free:
            raise NoFreeSlot
        # Among free ones, first those that nobody is warming.
        slot = mine[0] if mine else min(free, key=lambda s: (bool(s.warming), s.last_used))
        slot.session_id = session_id
        slot.last_used = next(self._uses)
        return slot
