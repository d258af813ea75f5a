"""What ``tocsin doctor`` has found, and how it is told."""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tocsin.cli.exits import DONE, NO_DATABASE, REFUSED
from tocsin.cli.output import console, emit
from tocsin.version import __version__

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. advice: what to do, for all but ok. no_database: nothing could be asked."""

    check: str
    status: str
    found: str
    advice: str = ""
    no_database: bool = False


def print_findings(findings: Sequence[Finding], *, json: bool) -> int:
    """The findings are on stdout; the exit code."""
    if json:
        for finding in findings:
            emit(
                {
                    "check": finding.check,
                    "status": finding.status,
                    "found": finding.found,
                    "advice": finding.advice or None,
                }
            )
    else:
        _print(findings)
    if any(finding.no_database for finding in findings):
        return NO_DATABASE
    return REFUSED if any(finding.status == FAIL for finding in findings) else DONE


def _print(findings: Sequence[Finding]) -> None:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    colours = {OK: "green", WARN: "yellow", FAIL: "bold red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        told = Text(finding.found)
        if finding.advice:
            told.append(f"\n→ {finding.advice}", style="italic")
        table.add_row(Text(finding.status, style=colours[finding.status]), finding.check, told)
    console().print(table)


def of_this_process() -> list[Finding]:
    """What stands at the beginning of every examination."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    return [Finding("python", OK, found), Finding("tocsin", OK, __version__)]
