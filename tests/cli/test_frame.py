"""One frame of the live view, whatever there is to show and however small the terminal."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from tocsin.cli.frame import Snapshot, frame
from tocsin.cli.live import PaneLog

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def a_run(number: int, state: str, **changes: Any) -> dict[str, Any]:
    started = NOW - timedelta(seconds=number + 5)
    return {
        "trigger": f"trigger-{number}",
        "state": state,
        "attempt": 1,
        "fence": 1,
        "effective_at": started - timedelta(milliseconds=3),
        "started_at": started,
        "finished_at": None if state == "running" else started + timedelta(seconds=2),
        "progress": "reading a very long list of things that go on and on and on and on",
        "fraction": 0.25,
        "cancel_requested_at": None,
        "error": None,
        "reason": None,
        "output": {"n": number},
        **changes,
    }


def a_snapshot(rows: int, **changes: Any) -> Snapshot:
    upcoming = [
        {"name": f"t{n}" * 20, "agent": "a" * 80, "wake_at": NOW + timedelta(hours=n), "paused": n == 2}
        for n in range(rows)
    ]
    values: dict[str, Any] = {
        "version": "0.1.0",
        "source": "app.py",
        "database": "embedded in .tocsin",
        "url": "http://127.0.0.1:8620",
        "since": NOW - timedelta(minutes=5),
        "now": NOW,
        "state": "ready",
        "upcoming": upcoming,
        "running": [a_run(n, "running") for n in range(rows)],
        "ended": [a_run(n, "failed", error="ValueError: one\ntwo", attempt=2) for n in range(rows)],
        "summary": {
            "occurrences": 12_345,
            "succeeded": 12_000,
            "failed": 5,
            "skipped": {"overlap": 3, "missed": 4},
            "lateness": {"p50": 0.002, "p99": 0.02, "max": 1.5},
        },
        **changes,
    }
    return Snapshot(**values)


def drawn(shot: Snapshot, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    lines = console.render_lines(frame(shot, width=width, height=height), pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


@pytest.mark.parametrize("rows", [0, 1, 5, 60])
@pytest.mark.parametrize(("width", "height"), [(60, 18), (80, 23), (100, 30), (250, 80)])
@pytest.mark.parametrize("noisy", [False, True])
def test_a_frame_fits_its_terminal(rows: int, width: int, height: int, noisy: bool) -> None:
    notes = [("warning", "x" * 300), ("error", "a\nb"), ("warning", "z")] if noisy else []
    trouble = "the database did not answer " + "y" * 300 if noisy else None
    lines = drawn(a_snapshot(rows, notes=notes, trouble=trouble), width, height)
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width


def test_a_frame_tells_what_is_due_what_runs_and_what_ended() -> None:
    text = "\n".join(drawn(a_snapshot(2, upcoming=a_snapshot(1).upcoming), 120, 30))
    for part in (
        "● ready", "up 5 m", "now", "running (2)", "25%", "5.0 s", "reading a very long", "failed", "+3 ms",
        "attempt 2: ValueError: one two", "12,345 occurrences", "3 skipped: overlap", "p50 2 ms · p99 20 ms · max",
    ):  # fmt: skip
        assert part in text, part


def test_a_drain_tells_what_is_still_in_hand() -> None:
    assert "2 in hand; Ctrl-C hurries" in drawn(a_snapshot(2, state="draining", in_hand=2), 80, 24)[0]


def test_nothing_to_show_is_told_too() -> None:
    text = "\n".join(drawn(a_snapshot(0, summary={}), 80, 24))
    assert "nothing is due; what has no schedule is called by events, or fired by hand" in text
    assert "lateness nothing that was due has begun yet" in text
    assert "nothing yet" in text
    assert "0 occurrences" in text


def test_the_same_warning_again_is_counted_not_repeated() -> None:
    log = PaneLog("info")
    log.info("unseen")
    for _ in range(3):
        log.warning("loop.failed", loop="planner")
    log.error("other")
    first, second = log.notes
    assert "(×3) loop.failed  loop=planner" in first[1]
    assert second[0] == "error"


def test_a_higher_level_hides_warnings() -> None:
    log = PaneLog("error")
    log.warning("hidden")
    log.error("shown")
    assert len(log.notes) == 1
