"""Histories made by hand: a good one is told step by step, and a test then tells one lie."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from tocsin.testing.history import Row
from tocsin.testing.history.logs import Change, Logs

NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERY_TEN: Final = {"rules": [{"every_seconds": 10}]}
POLICY: Final = {"catch_up": "latest", "max_catch_up": 10}


def instant(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def an_id(number: int) -> str:
    return str(UUID(int=number, version=4))


TRIGGER: Final = an_id(1)
HOLDER: Final = an_id(100)
PEER: Final = an_id(200)
PIDS: Final = {HOLDER: 41, PEER: 42}


class Story:
    """Two replicas since noon, a trigger that is due every ten seconds. Seconds count from noon.

    Each method tells one event in all the logs that would have it. ``logs(until)`` is the whole history.
    """

    def __init__(self) -> None:
        self.audit: list[Change] = []
        self.transitions: list[dict[str, Any]] = []
        self.entries: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.sessions: list[dict[str, Any]] = []
        self.seen: set[tuple[str, int, str]] = set()
        self.poisoned: set[str] = set()
        self.instances: list[Row] = []
        self.keys: list[Row] = []
        self.pids = dict(PIDS)
        self.agents: list[Row] = [{"name": "scribe", "concurrency": None, "concurrency_key": None}]
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._txid = 0
        for holder, pid in PIDS.items():
            self.events.append({"at": instant(0), "what": "spawn", "replica": f"r{pid}", "pid": pid})
            self.renew(holder, 0.1)
        self.trigger()

    # --- rows

    def change(self, table: str, key: str, at: float, **columns: Any) -> dict[str, Any]:
        """The row has these values from then on, and log (d) has it; a new row begins with them."""
        before = self._rows.get((table, key))
        after = {**(before or {}), **columns}
        self._txid += 1
        self.audit.append(Change(len(self.audit), self._txid, instant(at), instant(at), table, before, after))
        self._rows[table, key] = after
        return after

    def erase(self, table: str, key: str, at: float) -> None:
        before = self._rows.pop((table, key))
        self._txid += 1
        self.audit.append(Change(len(self.audit), self._txid, instant(at), instant(at), table, before, None))

    def forget(self, table: str, key: str) -> None:
        """The row is gone at the end, and no log says why."""
        del self._rows[table, key]

    # --- what happens

    def trigger(self, at: float = 0.2, *, key: str = TRIGGER, **columns: Any) -> None:
        told: dict[str, Any] = {
            "id": key, "name": "tick", "agent": "scribe", "schedule": EVERY_TEN, "policy": POLICY, "status": "armed",
            "version": 1, "paused": [], "broken_reason": None, "next_at": instant(10), "wake_at": instant(10),
            "created_at": instant(at), "changed_at": instant(at),
        }  # fmt: skip
        self.change("triggers", key, at, **told | columns)

    def renew(self, holder: str, at: float, *, ended: str | None = None, lease: float = 3) -> None:
        self.change(
            "leases", holder, at, holder=holder, renewed_at=instant(at), expires_at=instant(at + lease),
            ended_at=instant(at) if ended else None, end_reason=ended,
        )  # fmt: skip

    def instance(self, number: int, at: float, *, key: str = "near") -> str:
        """An agent process of that pid has come, with a lease of eight seconds; its id."""
        holder = an_id(number)
        self.pids[holder] = number
        self.event("spawn", at - 0.1, replica=f"i{number}", pid=number, role="instance")
        self.instances.append({"id": UUID(holder), "name": f"host:{number}", "key": key})
        self.beat(holder, at)
        return holder

    def beat(self, holder: str, *ats: float) -> None:
        """A beat was sent, written and answered at each of these."""
        for at in ats:
            self.renew(holder, at, lease=8)
            self.entries.append(
                {"at": instant(at + 0.02), "what": "BEAT", "sent": instant(at - 0.01), "holder": holder}
            )

    def bury(self, holder: str, at: float) -> None:
        """The process is given up."""
        self.change("leases", holder, at, ended_at=instant(at), end_reason="lost")

    def renew_all(self, until: float) -> None:
        """Both replicas renew to the end."""
        for holder in PIDS:
            self.renew(holder, until - 0.5)

    def plan(self, number: int, nominal: float, at: float | None = None, **columns: Any) -> str:
        """The occurrence has become a queued run, and the cursor has moved on."""
        run_id, when = an_id(1_000 + number), nominal + 0.01 if at is None else at
        told: dict[str, Any] = {
            "id": run_id, "trigger_id": TRIGGER, "trigger_version": 1, "agent": "scribe", "kind": "schedule",
            "nominal_at": instant(nominal), "effective_at": instant(nominal), "available_at": instant(nominal),
            "lane": "live", "scope": TRIGGER, "state": "queued", "reason": None, "fence": 0, "attempt": 0,
            "max_attempts": 3, "lost": 0, "seq": 1, "holder": None, "finished_at": None,
        }  # fmt: skip
        row = self.change("runs", run_id, when, **told | columns)
        if row["kind"] == "schedule":
            self.change("triggers", TRIGGER, when, next_at=instant(nominal + 10), wake_at=instant(nominal + 10))
        self._tell(row, None, HOLDER, when)
        return run_id

    def claim(self, run_id: str, at: float, holder: str = HOLDER) -> None:
        old = self._rows["runs", run_id]
        row = self.change(
            "runs", run_id, at, state="running", fence=old["fence"] + 1, attempt=old["attempt"] + 1,
            seq=old["seq"] + 1, holder=holder, reason=None,
        )  # fmt: skip
        self._tell(row, "queued", holder, at)
        self.entry("START", run_id, at + 0.001, row["fence"], effective=row["effective_at"], pid=self.pids[holder])

    def settle(self, run_id: str, at: float, state: str = "succeeded", holder: str = HOLDER, **columns: Any) -> None:
        fence = self._rows["runs", run_id]["fence"]
        self.entry("END", run_id, at - 0.002, fence, end="ok")
        self._close(run_id, at, state, holder, **columns)
        self.answer(run_id, at + 0.001, fence, holder, state=state)

    def sweep(self, run_id: str, at: float, judge: str = PEER, *, reason: str = "lost", state: str = "queued") -> None:
        lost = self._rows["runs", run_id]["lost"] + 1
        attempt = self._rows["runs", run_id]["attempt"] - (state == "queued")
        self._close(run_id, at, state, judge, reason=reason, lost=lost, attempt=attempt)

    def _close(self, run_id: str, at: float, state: str, actor: str, **columns: Any) -> None:
        old = self._rows["runs", run_id]
        finished = None if state == "queued" else instant(at)
        told: dict[str, Any] = {"state": state, "seq": old["seq"] + 1, "holder": None, "finished_at": finished}
        row = self.change("runs", run_id, at, **told | columns)
        self._tell(row, old["state"], actor, at)

    def _tell(self, row: dict[str, Any], old: str | None, holder: str, at: float) -> None:
        self.transitions.append(
            {
                "run_id": UUID(row["id"]), "seq": row["seq"], "from_state": old, "to_state": row["state"],
                "attempt": row["attempt"], "fence": row["fence"], "actor": f"{self._kind(holder)}:{holder}",
                "reason": row["reason"], "at": instant(at),
            }
        )  # fmt: skip

    def _kind(self, holder: str) -> str:
        return "instance" if any(str(row["id"]) == holder for row in self.instances) else "replica"

    def entry(self, what: str, run_id: str, at: float, fence: int, **fields: Any) -> None:
        self.entries.append({"at": instant(at), "what": what, "run": run_id, "fence": fence, **fields})

    def answer(self, run_id: str, at: float, fence: int, holder: str, *, state: str, accepted: bool = True) -> None:
        self.entry("ANSWER", run_id, at, fence, holder=holder, state=state, accepted=accepted)

    def whole(self, number: int, nominal: float) -> str:
        """An occurrence was planned, claimed and settled as it should be."""
        run_id = self.plan(number, nominal)
        self.claim(run_id, nominal + 0.02)
        self.settle(run_id, nominal + 0.5)
        return run_id

    def event(self, what: str, at: float, **fields: Any) -> None:
        self.events.append({"at": instant(at), "what": what, **fields})

    def ends(self, holder: str, at: float, code: int = -9) -> None:
        self.event("exit", at, pid=PIDS[holder], replica="", code=code)

    # --- the end

    def logs(self, until: float = 25) -> Logs:
        tables: dict[str, list[Row]] = {name: [] for name in ("runs", "triggers", "leases", "skips")}
        for (table, _), row in self._rows.items():
            ids = {key: UUID(row[key]) for key in ("id", "trigger_id", "holder") if row.get(key) is not None}
            tables[table].append({**row, **ids})
        tables["agents"] = self.agents
        tables["transitions"] = list(self.transitions)
        tables["sessions"] = list(self.sessions)
        tables["instances"] = self.instances
        tables["keys"] = self.keys
        tables["replicas"] = [
            {"id": UUID(holder), "name": f"host:{pid}", "started_at": instant(0.1)} for holder, pid in PIDS.items()
        ]
        return Logs(
            audit=sorted(self.audit, key=lambda change: (change.at, change.id)),
            entries=self.entries,
            calls=self.calls,
            events=self.events,
            seen=frozenset(self.seen),
            samples=self.samples,
            tables=tables,
            poisoned=frozenset(self.poisoned),
            until=instant(until),
        )


def a_story() -> Story:
    """Two occurrences, both as they should be; both replicas renew until the end, 25 seconds past noon."""
    story = Story()
    story.whole(0, 10)
    story.whole(1, 20)
    story.renew_all(25)
    return story
