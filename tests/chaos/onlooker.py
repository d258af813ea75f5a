"""Somebody who looks at the database and the processes all the time, and remembers what was seen committed."""

import asyncio
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import asyncpg

from tests.chaos import gauge
from tests.chaos.fleet import Fleet
from tests.chaos.postgres import AWAY

EVERY: Final = 0.5

_LOOK: Final = """
SELECT clock_timestamp() AS now,
       (SELECT count(*) FROM pg_stat_activity a WHERE a.application_name LIKE 'tocsin%') AS connections,
       (SELECT jsonb_object_agg(s.relname, jsonb_build_array(s.n_live_tup, s.n_dead_tup))
          FROM pg_stat_user_tables s WHERE s.schemaname = 'tocsin') AS rows
"""
_SEEN: Final = """
SELECT a.id, a.after ->> 'id' AS run_id, (a.after ->> 'seq')::integer AS seq, a.after ->> 'state' AS state
  FROM chaos.audit a
 WHERE a.id > $1 AND a.tab = 'runs' AND a.after IS NOT NULL
   AND a.after ->> 'state' IS DISTINCT FROM a.before ->> 'state'
 ORDER BY a.id
"""


class Onlooker:
    """Looks until it is cancelled. ticks: (monotonic, the database's instant, seconds that the answer took)."""

    def __init__(self, fleet: Fleet) -> None:
        self.ticks: list[tuple[float, Any, float]] = []
        self.samples: list[dict[str, Any]] = []
        self.seen: set[tuple[str, int, str]] = set()
        self._fleet = fleet
        self._last = 0

    async def run(self) -> None:
        while True:
            with suppress(*AWAY):
                await self._look_on()
            await asyncio.sleep(EVERY)

    async def _look_on(self) -> None:
        """One session for as long as it lives."""
        session = await asyncpg.connect(
            self._fleet.postgres.dsn, timeout=5, command_timeout=5, server_settings={"application_name": "chaos"}
        )
        try:
            while True:
                await self._look(session)
                await asyncio.sleep(EVERY)
        finally:
            session.terminate()

    async def _look(self, session: Any) -> None:
        asked = time.monotonic()
        row = await session.fetchrow(_LOOK)
        answered = time.monotonic()
        self.ticks.append(((asked + answered) / 2, row["now"], answered - asked))
        self.samples.append(
            {
                "mono": answered,
                "connections": row["connections"],
                "rows": json.loads(row["rows"]),
                "processes": self._processes(),
            }
        )
        for seen in await session.fetch(_SEEN, self._last):
            self._last = seen["id"]
            self.seen.add((seen["run_id"], seen["seq"], seen["state"]))

    def _processes(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for member in self._fleet.everybody:
            if member.alive:
                with suppress(OSError, IndexError):
                    pages = int(Path(f"/proc/{member.pid}/statm").read_text().split()[1])
                    fds = len(os.listdir(f"/proc/{member.pid}/fd"))
                    told = gauge.reading(self._fleet.ledgers, member.pid)
                    found[str(member.pid)] = {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "fds": fds, **told}
        return found
