"""A storm of edits: many clients change triggers of one second over the HTTP API of two replicas while these fire.

Each client has a share of the triggers for itself, which it pauses, resumes and deletes as one who knows how they
stand; all of them edit all triggers at versions that others may have left behind, and do whatever they like to a few.
Beside them are two that have no right to: one whose key only reads, one whose key is unknown.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.chaos.agents import hub
from tests.chaos.course import PATIENCE, logs_of
from tests.chaos.fleet import Fleet
from tests.chaos.journal import Journal, read_journal
from tests.chaos.onlooker import Onlooker
from tests.chaos.sabotage import prepare
from tocsin import every
from tocsin.clock import SystemClock
from tocsin.declared import App
from tocsin.domain.trigger import CatchUp, Overlap, TriggerSpec
from tocsin.engine.control import Control
from tocsin.store.database import Database
from tocsin.testing.history import audit
from tocsin.testing.history.checker import check, report
from tocsin.testing.history.limits import start_lags
from tocsin.testing.history.logs import Logs
from tocsin.testing.violation import Violation

CLIENTS: Final = 4
EVERY: Final = 0.03
"""Seconds between two requests of a client, on average."""

AIMED: Final = 0.2
"""Seconds before each full one in which clients wait for its end."""

SHARED: Final = 20
"""Triggers that nobody has for itself."""

CONNECTIONS: Final = 20
"""For each replica: its engine's and its API's, and half of those of this harness, which go by the same name."""

CALM: Final = 4.0
CANARY: Final = "canary-8c1f-in-an-input"
DONE: Final = {
    "add": "created", "edit": "changed", "pause": "paused", "resume": "resumed", "delete": "deleted",
    "x-pause": "paused", "x-resume": "resumed", "x-delete": "deleted",
}  # fmt: skip
"""What is done → as what it is on record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    seed: int
    triggers: int = 1_000
    seconds: float = 20
    sabotage: str = ""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """faults: what was wrong with the answers, or with the record of who did what."""

    storm: Storm
    logs: Logs
    violations: list[Violation]
    faults: list[str]
    answers: Counter[str]

    @property
    def clean(self) -> bool:
        return not self.violations and not self.faults

    def __str__(self) -> str:
        lags = start_lags(self.logs)
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.answers.items()))
        lines = [
            f"storm {self.storm.seed}: {self.storm.triggers} triggers of a second, {len(self.logs.tables['runs'])}"
            f" runs, {len(self.logs.audit)} changes of rows; answered: {told}"
        ]
        if lags:
            median, most = lags[len(lags) // 2].total_seconds(), lags[-1].total_seconds()
            lines.append(f"starts: median {median * 1000:.0f} ms after the instant, at most {most:.2f} s")
        lines += self.faults[:20]
        lines.append("every invariant held" if self.clean else report(self.logs, self.violations))
        return "\n".join(lines)


async def run(storm: Storm, place: Path) -> Outcome:
    """The storm is over, nothing of it is left running, and its history is judged."""
    env = {"CHAOS_SABOTAGE": storm.sabotage} if storm.sabotage else {}
    async with Fleet(place, replicas=2, env=env) as fleet:
        database = Database(fleet.postgres.dsn, size=4)
        await audit.install(database)
        control = Control(database=database, clock=SystemClock(), actor="declarer")
        functions = hub.build("chaos").functions
        names = [f"e{number:04}" for number in range(storm.triggers)]
        await control.declare(App(source="chaos", functions=functions, triggers=()))
        keys = {name: await _key(control, name, "admin") for name in _clients()}
        keys |= {"reader": await _key(control, "reader", "read"), "nobody": "tocsin_made-up"}
        if storm.sabotage:
            await prepare(storm.sabotage, fleet)
        await fleet.start()
        ports = [(await member.until_logged("hub.ready"))["url"].rpartition(":")[2] for member in fleet.members]
        for member in fleet.members:
            await member.until_logged("api.joined")
        await fleet.declare([_trigger(name, Random(name)) for name in names])
        onlooker = Onlooker(fleet)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(onlooker.run())
            calls = await _edited(storm, [int(port) for port in ports], keys, names, place)
            await fleet.for_a_while(CALM * PATIENCE)
            looking.cancel()
        logs = await logs_of(fleet, database, onlooker, connections=CONNECTIONS)
        faults = [*faults_of(calls, await control.audit(limit=100_000)), *_told(fleet)]
        await database.close()
    answers = Counter(f"{call['op']} {call['status']}" for call in calls)
    return Outcome(storm=storm, logs=logs, violations=check(logs), faults=faults, answers=answers)


def _clients() -> list[str]:
    return [f"c{number}" for number in range(CLIENTS)]


async def _key(control: Control, name: str, scope: str) -> str:
    return str((await control.keys.create(name, scopes=[scope]))["key"])


def _trigger(name: str, rng: Random) -> TriggerSpec:
    return TriggerSpec(
        name=name,
        agent="scribe",
        schedule=every(1),
        input={"seconds": [0.0], "secret": CANARY},
        overlap=rng.choice([Overlap.SKIP, Overlap.ALLOW, Overlap.QUEUE_ONE]),
        catch_up=CatchUp.ALL,
    )


async def _edited(
    storm: Storm, ports: Sequence[int], keys: dict[str, str], names: Sequence[str], place: Path
) -> list[dict[str, Any]]:
    """What was asked and answered, until the time was over."""
    over = threading.Event()
    journal = Journal(place / "calls.jsonl")
    shared, own = list(names[:SHARED]), names[SHARED:]
    editors: list[Editor] = []
    for number, (name, key) in enumerate(keys.items()):
        share = list(own[number::CLIENTS]) if name in _clients() else []
        editors.append(
            Editor(
                name=name,
                key=key,
                port=ports[number % len(ports)],
                journal=journal,
                rng=Random(f"{storm.seed} {name}"),
                own=share,
                shared=shared,
                everything=list(names),
                may_write=name in _clients(),
            )
        )
    async with asyncio.TaskGroup() as group:
        for editor in editors:
            group.create_task(asyncio.to_thread(editor.run, over))
        await asyncio.sleep(storm.seconds)
        over.set()
    journal.close()
    return read_journal(place / "calls.jsonl")


@dataclass(kw_only=True)
class Editor:
    """A client with a connection of its own. own: triggers that it alone pauses, resumes, deletes."""

    name: str
    key: str
    port: int
    journal: Journal
    rng: Random
    own: list[str]
    shared: Sequence[str]
    everything: Sequence[str]
    may_write: bool
    paused: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    added: int = 0

    def run(self, over: threading.Event) -> None:
        self._connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        acts = [self._edit] * 4 + [self._pause, self._resume] * 2 + [self._delete, self._add, self._fire] + [self._any]
        while not over.wait(self.rng.expovariate(1 / EVERY)):
            self._aim()
            self.rng.choice(acts if self.may_write else [self._edit, self._any])()
        self._connection.close()

    def _aim(self) -> None:
        """Shortly before a full second its last moments are waited for: a change that begins before what is due is
        decided, and then waits for those who decide it, is the one that could go wrong."""
        left = 1 - time.time() % 1
        if left < AIMED:
            time.sleep(max(0.0, left - self.rng.uniform(0.0, 0.02)))

    def _ask(self, op: str, trigger: str, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """The answer is in the log; its form, or {} when it was refused."""
        more: dict[str, Any] = {"if_match": int(headers["If-Match"].strip('"'))} if "If-Match" in headers else {}
        more |= {"key": headers["Idempotency-Key"]} if "Idempotency-Key" in headers else {}
        sent = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **headers}
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = self._connection.getresponse()
            status, text = answer.status, answer.read().decode()
        except OSError as error:
            self._connection.close()
            self.journal.note("call", op=op, trigger=trigger, ok=False, actor=self.name, status=0, error=repr(error))
            return {}
        form: dict[str, Any] = json.loads(text)
        is_done = status < 300
        told = {"run": form["id"]} if is_done and op == "fire" else {"version": form.get("version", 0)}
        self.journal.note(
            "call",
            op=op,
            trigger=trigger,
            ok=is_done,
            refused=400 <= status < 500,
            actor=self.name,
            status=status,
            **({**told, **more} if is_done else {**more, "error": text}),
        )
        return form if is_done else {}

    def _edit(self) -> None:
        name = self.rng.choice(self.everything)
        version = self.versions.get(name, 1)
        change = self.rng.choice(
            [
                {"policy": {"priority": self.rng.randrange(10)}},
                {"schedule": {"rules": [{"every_seconds": self.rng.choice([1, 1, 2])}]}},
                {"input": {"seconds": [0.0], "secret": CANARY, "n": self.rng.randrange(9)}},
            ]
        )
        form = self._ask("edit", name, "PATCH", f"/v1/triggers/{name}", change, **{"If-Match": f'"{version}"'})
        if not form:
            form = self._ask("read", name, "GET", f"/v1/triggers/{name}")
        if "version" in form:
            self.versions[name] = form["version"]

    def _pause(self) -> None:
        if len(self.paused) < len(self.own) // 3:
            name = self.own.pop(self.rng.randrange(len(self.own)))
            if self._ask("pause", name, "POST", f"/v1/triggers/{name}/pause", {}):
                self.paused.append(name)

    def _resume(self) -> None:
        if self.paused:
            name = self.paused.pop(self.rng.randrange(len(self.paused)))
            body = self.rng.choice([{}, {"catch_up": "latest"}])
            if self._ask("resume", name, "POST", f"/v1/triggers/{name}/resume", body):
                self.own.append(name)

    def _delete(self) -> None:
        if len(self.own) > SHARED:
            name = self.own.pop(self.rng.randrange(len(self.own)))
            self._ask("delete", name, "DELETE", f"/v1/triggers/{name}")

    def _add(self) -> None:
        self.added += 1
        name = f"{self.name}-{self.added}"
        form = {
            "name": name,
            "agent": "scribe",
            "schedule": {"rules": [{"every_seconds": 1}]},
            "input": {"seconds": [0.0], "secret": CANARY},
        }
        if self._ask("add", name, "POST", "/v1/triggers", form):
            self.own.append(name)

    def _fire(self) -> None:
        name = self.rng.choice(self.own)
        key = f"{self.name}-{self.rng.randrange(10**9)}"
        for _ in range(self.rng.randrange(1, 3)):
            self._ask("fire", name, "POST", f"/v1/triggers/{name}/fire", {}, **{"Idempotency-Key": key})

    def _any(self) -> None:
        """To what belongs to nobody, whatever others do to it in the same moment."""
        name = self.rng.choice(self.shared)
        match self.rng.randrange(5):
            case 0 | 1:
                reason = f"{self.name} {self.rng.randrange(10**9)}"
                self._ask("x-pause", name, "POST", f"/v1/triggers/{name}/pause", {"reason": reason})
            case 2 | 3:
                self._ask("x-resume", name, "POST", f"/v1/triggers/{name}/resume", {})
            case _ if self.rng.random() < 0.1:
                self._ask("x-delete", name, "DELETE", f"/v1/triggers/{name}")
            case _:
                self._ask("read", name, "GET", f"/v1/triggers/{name}/why")


def faults_of(calls: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What no answer may be, and where answers and records differ."""
    for call in calls:
        about = f"{call['op']} of {call['trigger']} by {call['actor']}"
        if call["status"] == 0 or call["status"] >= 500:
            yield f"{about} was answered {call['status']}: {call['error']}"
        elif call["actor"] in ("reader", "nobody") and call["op"] in DONE and call["status"] not in (401, 403, 429):
            yield f"{about} was answered {call['status']}"
        elif call["op"] == "edit" and call["ok"] and call["version"] != call["if_match"] + 1:
            yield f"{about} at version {call['if_match']} was answered with version {call['version']}"
        if CANARY in call.get("error", ""):
            yield f"{about} was refused with the input's secret"
    done = Counter((f"key:{c['actor']}", DONE[c["op"]], c["trigger"]) for c in calls if c["ok"] and c["op"] in DONE)
    told = Counter((r["actor"], r["action"], r["target"]) for r in records if r["actor"].startswith("key:"))
    for what, count in ((done - told) + (told - done)).items():
        yield f"{what}: answered {done[what]} times and recorded {told[what]} times, {count} too many of one"
    if any(CANARY in str(record["detail"]) for record in records):
        yield "the record holds an input's secret"


def _told(fleet: Fleet) -> Iterator[str]:
    for member in fleet.members:
        for word in (CANARY, "http.failed", "tocsin_made-up"):
            if member.said(word):
                yield f"{member.name} has logged {word!r}"
