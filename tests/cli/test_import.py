"""``tocsin import crontab``: what comes out is an app that loads."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Answer
from tocsin import load_app

Tocsin = Callable[..., Answer]

CRONTAB = """\
MAILTO=ops@example.org
30 2 * * 1-5 /usr/local/bin/backup.sh --all
@daily /usr/bin/certbot -q renew
@reboot /opt/start
"""


@pytest.fixture
def crontab(place: Path) -> Path:
    path = place / "crontab"
    path.write_text(CRONTAB)
    return path


def test_the_app_goes_to_stdout_and_notes_to_stderr(tocsin: Tocsin, crontab: Path, place: Path) -> None:
    answer = tocsin("import", "crontab", "crontab", "--tz", "Europe/Paris")
    assert answer.code == 0
    (place / "out.toml").write_text(answer.out)
    app = load_app(str(place / "out.toml"))
    assert [trigger.name for trigger in app.triggers] == ["backup", "certbot"]
    assert any(":4: @reboot" in line for line in answer.lines)
    assert any(":1: MAILTO" in line for line in answer.lines)


def test_a_file_is_written_once_and_only_overwritten_when_asked(tocsin: Tocsin, crontab: Path, place: Path) -> None:
    assert tocsin("import", "crontab", "crontab", "-o", "app.toml").code == 0
    load_app(str(place / "app.toml"))
    again = tocsin("import", "crontab", "crontab", "-o", "app.toml")
    assert again.code == 1
    assert "--force" in again.lines[0]
    assert tocsin("import", "crontab", "crontab", "-o", "app.toml", "--force").code == 0


def test_every_faulty_line_is_told_and_nothing_is_written(tocsin: Tocsin, place: Path) -> None:
    (place / "crontab").write_text("99 * * * * a\n0 0 * * * fine\n* * * * *\n")
    answer = tocsin("import", "crontab", "crontab", "-o", "app.toml")
    assert answer.code == 2
    assert [line.split(": ")[1] for line in answer.lines] == ["crontab:1", "crontab:3"]
    assert not (place / "app.toml").exists()


def test_a_crontab_comes_from_stdin(tocsin: Tocsin) -> None:
    answer = tocsin("import", "crontab", "-", stdin="0 0 * * * /bin/true\n")
    assert answer.code == 0
    assert "[triggers.true]" in answer.out


@pytest.mark.parametrize(
    ("words", "told"), [(["no-such-file"], "No such file"), (["crontab", "--tz", "Mars/X"], "Mars/X"), ([], "FILE")]
)
def test_what_cannot_be_read_is_one_line(tocsin: Tocsin, crontab: Path, words: list[str], told: str) -> None:
    answer = tocsin("import", "crontab", *words)
    assert answer.code == 2
    assert answer.out == ""
    assert told in answer.lines[0]
    assert len(answer.lines) == 1
