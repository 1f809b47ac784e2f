"""What outlasts a call: its transcript, in SQLite."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from services.gateway.history import Turn

SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
  id TEXT PRIMARY KEY, persona_id TEXT NOT NULL, started_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS turns (
  session_id TEXT NOT NULL REFERENCES sessions(id), number INTEGER NOT NULL,
  role TEXT NOT NULL CHECK (role IN ('user', 'agent')), text TEXT NOT NULL, at REAL NOT NULL,
  PRIMARY KEY (session_id, number)
);
"""


class Store:
    """Sessions and their turns. Open it with `open_store`."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def add_session(self, session_id: str, persona_id: str) -> None:
        await self._database.execute(
            "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?)", (session_id, persona_id, time.time())
        )
        await self._database.commit()

    async def add_turn(self, session_id: str, turn: Turn) -> None:
        await self._database.execute(
            "INSERT INTO turns SELECT ?, coalesce(max(number), 0) + 1, ?, ?, ? FROM turns WHERE session_id = ?",
            (session_id, turn.role, turn.text, time.time(), session_id),
        )
        await self._database.commit()

    async def has_session(self, session_id: str) -> bool:
        query = "SELECT 1 FROM sessions WHERE id = ?"
        async with self._database.execute(query, (session_id,)) as rows:
            return await rows.fetchone() is not None

    async def turns(self, session_id: str) -> list[Turn]:
        """A session's turns in order; none for an unknown session."""
        query = "SELECT role, text FROM turns WHERE session_id = ? ORDER BY number"
        async with self._database.execute(query, (session_id,)) as rows:
            return [Turn(role, text) for role, text in await rows.fetchall()]


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[Store]:
    path.parent.mkdir(parents=True, exist_ok=True)
    async with aiosqlite.connect(path) as database:
        await database.execute("PRAGMA journal_mode = WAL")
        await database.executescript(SCHEMA)
        yield Store(database)
