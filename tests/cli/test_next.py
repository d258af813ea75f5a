"""``tocsin next``: when would it fire? Without a database."""

import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo, reset_tzpath

import pytest

from tests.cli.conftest import Answer

Tocsin = Callable[..., Answer]


def test_the_next_instants_are_told_in_the_zone_and_in_utc(tocsin: Tocsin) -> None:
    answer = tocsin("next", "30 2 * * *", "--tz", "Europe/Paris", "--after", "2026-03-28T00:00:00Z", "-n", "2")
    assert answer.code == 0
    first, second = answer.out.splitlines()
    assert "2026-03-28 02:30:00 CET" in first
    assert "2026-03-28 01:30:00Z" in first
    # 02:30 does not exist on the 29th: it is shifted to the first instant after the gap.
    assert "2026-03-29 03:00:00 CEST" in second


def test_json_is_one_object_a_line(tocsin: Tocsin) -> None:
    answer = tocsin("next", "0 0 * * *", "--tz", "Asia/Tokyo", "--after", "2026-01-01T00:00:00Z", "-n", "2", "--json")
    assert answer.objects == [
        {"expr": "0 0 * * *", "tz": "Asia/Tokyo", "at": f"2026-01-0{day}T15:00:00Z", "local": f"{local}T00:00:00+09:00"}
        for day, local in ((1, "2026-01-02"), (2, "2026-01-03"))
    ]


def test_gap_and_fold_are_chosen(tocsin: Tocsin) -> None:
    words = ["next", "30 2 * * *", "--tz", "Europe/Paris", "--json", "-n", "2"]
    both = tocsin(*words, "--after", "2026-10-24T12:00:00Z", "--fold", "both").objects
    assert [line["at"] for line in both] == ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]
    skipped = tocsin(*words, "--after", "2026-03-28T12:00:00Z", "--gap", "skip").objects
    assert skipped[0]["at"] == "2026-03-30T00:30:00Z"


def test_an_instant_without_offset_is_read_in_the_zone(tocsin: Tocsin) -> None:
    answer = tocsin("next", "0 9 * * *", "--tz", "Asia/Tokyo", "--after", "2026-01-01T08:00", "-n", "1", "--json")
    assert answer.objects[0]["at"] == "2026-01-01T00:00:00Z"


def test_local_times_are_of_the_release_that_decides_what_is_due(tocsin: Tocsin, place: Path) -> None:
    # A host whose zones are of another release: here, one for which Paris keeps to Tokyo's time.
    (place / "zones/Europe").mkdir(parents=True)
    other = resources.files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes()
    (place / "zones/Europe/Paris").write_bytes(other)
    reset_tzpath([str(place / "zones")])
    ZoneInfo.clear_cache()
    try:
        words = ["next", "0 9 * * *", "--tz", "Europe/Paris", "--after", "2026-01-01T08:00", "-n", "1"]
        answer, told = tocsin(*words), tocsin(*words, "--json").objects[0]
    finally:
        reset_tzpath()
        ZoneInfo.clear_cache()
    assert answer.out.startswith("Thu 2026-01-01 09:00:00 CET")
    assert (told["at"], told["local"]) == ("2026-01-01T08:00:00Z", "2026-01-01T09:00:00+01:00")


def test_the_calendars_last_hours_are_told_in_utc_where_the_zone_is_beyond_them(tocsin: Tocsin) -> None:
    words = ["next", "0 0 * * *", "--tz", "Asia/Tokyo", "--after", "9999-12-30T20:00:00Z", "-n", "2", "--json"]
    assert tocsin(*words).objects == [
        {"expr": "0 0 * * *", "tz": "Asia/Tokyo", "at": "9999-12-31T15:00:00Z", "local": "9999-12-31T15:00:00+00:00"}
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["99 * * * *"], ["minute", "'99'", "0–59"]),
        (["0 0 30 2 *"], ["day of month", "'30'"]),
        (["* * *"], ["five fields"]),
        ([""], ["five fields"]),
        (["@reboot"], ["@reboot"]),
        (["* * * * *", "--tz", "Mars/Olympus"], ["tz", "Mars/Olympus"]),
        (["* * * * *", "--after", "tomorrow"], ["--after", "tomorrow", "ISO 8601"]),
        (["* * * * *", "--gap", "jump"], ["--gap", "jump", "shift or skip"]),
        (["* * * * *", "--fold", "third"], ["--fold", "third"]),
        (["* * * * *", "-n", "0"], ["-n"]),
        (["* * * * *", "-n", "-3"], ["-n"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tocsin: Tocsin, words: list[str], told: list[str]) -> None:
    answer = tocsin("next", *words)
    assert answer.code == 2
    assert answer.out == ""
    (line,) = answer.lines
    assert all(part in line for part in told)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    words = [sys.executable, "-m", "tocsin.cli", "next", "* * * * *", "-n", "100000"]
    command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert command.stdout is not None
    assert command.stderr is not None
    with command:
        assert command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == ""
    assert command.returncode == 0
