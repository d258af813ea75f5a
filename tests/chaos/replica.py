"""One real replica, as ``tocsin serve`` runs it, with a tap on what the database answers.

CHAOS_LEDGERS   where the ledgers lie
CHAOS_CRASH     "before:STATEMENT:N", "after:STATEMENT:N" or "commit:STATEMENT:N": the process is killed when it
                passes that point for the Nth time, or "freeze:…", stopped; see tests/chaos/points.py
CHAOS_SABOTAGE  the name of a guard that is taken out; see tests/chaos/sabotage.py
"""

import os
import sys
from asyncio import Runner

from tests.chaos import gauge, points
from tests.chaos.agents import hub, ledger
from tocsin.serve import Order, Process
from tocsin.settings import load_settings
from tocsin.telemetry import logger


def main() -> int:
    settings = load_settings()
    if hole := os.environ.get("CHAOS_SABOTAGE"):
        from tests.chaos import sabotage  # noqa: PLC0415 — what it takes out is this release's only

        sabotage.install(hole)
    gauge.install(ledger().path.parent)
    points.install(os.environ.get("CHAOS_CRASH", ""), ledger())
    log = logger(form=settings.log_format, level=settings.log_level)
    order = Order(settings=settings, app=hub.build("chaos"))
    runner = Runner()
    ended = runner.run(Process(order, log=log).run())
    sys.stdout.flush()
    if ended.stuck:
        os._exit(4)
    runner.close()
    return 4 if ended.released else 0


if __name__ == "__main__":
    sys.exit(main())
