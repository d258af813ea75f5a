"""One real agent process, as ``tocsin work`` runs it, with a tap on what the hubs answer.

Its ledger has, beside what its agents note, TOLD: what was answered to a result, and BEAT: that a beat was taken,
which was sent then. CHAOS_LEDGERS and CHAOS_SABOTAGE are those of a replica.
"""

import os
import sys
from typing import Any, Final

from tests.chaos.agents import ledger
from tests.chaos.journal import Journal
from tocsin.cli import main as tocsin
from tocsin.sdk.lease import Lease
from tocsin.sdk.link import Link
from tocsin.sdk.work import Work
from tocsin.v1 import agent_pb2 as pb

COMMAND: Final = ("work", "tests.chaos.agents:elsewhere", "--json")


def install(journal: Journal) -> None:
    """What this process is told from now on stands in the ledger, with the id under which it was told."""
    holders: dict[int, str] = {}
    connect, receive, taken = Link._connect, Work.receive, Lease.taken
    about: dict[str, Any] = {"pid": os.getpid()}

    async def connecting(self: Link, hub: str) -> Any:
        holders[self._number + 1] = about["holder"] = self._instance
        return await connect(self, hub)

    def received(self: Work, stream: int, message: pb.FromHub) -> None:
        for verdict in message.settled.verdicts:
            told = {"run": verdict.run_id, "fence": verdict.fence, "accepted": not verdict.fenced}
            journal.note("TOLD", **{**about, "holder": holders[stream]}, **told)
        receive(self, stream, message)

    def beaten(self: Lease, seq: int) -> bool:
        sent_at = self._sent.get(seq)
        is_news = taken(self, seq)
        if is_news:
            journal.note("BEAT", **about, sent=sent_at)
        return is_news

    setattr(Link, "_connect", connecting)  # noqa: B010 — a method of the product is wrapped on purpose
    setattr(Work, "receive", received)  # noqa: B010
    setattr(Lease, "taken", beaten)  # noqa: B010


def main() -> int:
    if hole := os.environ.get("CHAOS_SABOTAGE"):
        from tests.chaos import sabotage  # noqa: PLC0415 — it loads a whole hub

        sabotage.install_elsewhere(hole)
    install(ledger())
    return tocsin(COMMAND)


if __name__ == "__main__":
    sys.exit(main())
