"""Named points at which a replica dies, and a tap on the answers to its settlements. No hook in the engine.

before:S   the process dies when it is about to send statement S
after:S    S is answered, inside its transaction if it has one, and nobody has acted upon the answer
found:S    the same, where the answer has rows
commit:S   the commit of the transaction in which S was sent is answered, and nobody has acted upon it

"freeze:" in front has the process stand still there (SIGSTOP) instead of dying.

The points are around ``Session``, which every statement of the product passes.
"""

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from tests.chaos.journal import Journal
from tocsin.store.database import Session

WRITES: Final = ("materialise", "claim", "settle", "renew", "sweep", "register", "hold_lock", "report")
LEAVING: Final = ("mark_draining", "release_lease")
"""What only a replica that was asked to leave writes."""

TRANSACTIONS: Final = ("lock_due", "materialise")
POINTS: Final = (
    *(f"{side}:{name}" for name in (*WRITES, *LEAVING) for side in ("before", "after")),
    *(f"commit:{name}" for name in TRANSACTIONS[1:]),
    "found:lock_due",
    "after:look",
    "after:free_locks",
)
"""Every point at which a crash is tried."""


def install(crash: str, ledger: Journal) -> None:
    """Sessions of this process pass the points, and note in the ledger which settlements were accepted."""
    freezes = crash.startswith("freeze:")
    where, _, times = crash.removeprefix("freeze:").rpartition(":")
    passed: Counter[str] = Counter()
    fetch, transaction = Session.fetch, Session.transaction

    def at(point: str) -> None:
        passed[point] += 1
        if point == where and passed[point] == int(times):
            ledger.note("FREEZE" if freezes else "CRASH", point=point, pid=os.getpid())
            os.kill(os.getpid(), signal.SIGSTOP if freezes else signal.SIGKILL)

    def answered(values: dict[str, Any], states: Iterable[str], accepted: Container[UUID]) -> None:
        for run_id, fence, state in zip(values["ids"], values["fences"], states, strict=True):
            ledger.note(
                "ANSWER", run=run_id, fence=fence, state=state, accepted=run_id in accepted, holder=values["holder"],
                pid=os.getpid(),
            )  # fmt: skip

    async def tapped(self: Session, name: str, /, **values: Any) -> Any:
        if _is_rehearsal(values):
            return await fetch(self, name, **values)
        at(f"before:{_point(name)}")
        rows = await fetch(self, name, **values)
        at(f"after:{_point(name)}")
        if rows:
            at(f"found:{_point(name)}")
        if name == "settle":
            answered(values, values["states"], {row["id"] for row in rows})
        if id(self) in _sent:
            _sent[id(self)].append(name)
        return rows

    async def tapped_row(self: Session, name: str, /, **values: Any) -> Any:
        at(f"before:{_point(name)}")
        row = await fetchrow(self, name, **values)
        at(f"after:{_point(name)}")
        if name == "settle_plain" and row is not None:
            # What it did not close is settled once more, by the statement that can say why not.
            ours = set(values["ids"] if row["ours"] is None else row["ours"])
            closed = [place for place, run_id in enumerate(values["ids"]) if run_id in ours]
            kept = {column: [values[column][place] for place in closed] for column in ("ids", "fences")}
            answered(values | kept, ["succeeded"] * len(closed), ours)
        return row

    @asynccontextmanager
    async def committed(self: Session) -> AsyncIterator[None]:
        _sent[id(self)] = []
        try:
            async with transaction(self):
                yield
        finally:
            names = _sent.pop(id(self), [])
        for name in names:
            at(f"commit:{name}")

    fetchrow = Session.fetchrow
    setattr(Session, "fetch", tapped)  # noqa: B010 — a method of the product is wrapped on purpose
    setattr(Session, "fetchrow", tapped_row)  # noqa: B010
    setattr(Session, "transaction", committed)  # noqa: B010


def _point(name: str) -> str:
    """A plain claim or settlement is one like any other."""
    return name.removesuffix("_plain")


def _is_rehearsal(values: dict[str, Any]) -> bool:
    """Statements that a replica plans as it starts do nothing, and are no point to die at."""
    return values.get("batch") == values.get("free") == 0


_sent: dict[int, list[str]] = {}
