"""Crontabs as they are found, and the apps that come of them."""

from pathlib import Path

import pytest

from tocsin import load_app
from tocsin.domain.crontab import Crontab, Entry, read_crontab, write_app
from tocsin.domain.rules import Cron

DEBIAN = """\
# /etc/crontab: system-wide crontab
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

17 *\t* * *\troot    cd / && run-parts --report /etc/cron.hourly
25 6\t* * *\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }
47 6\t* * 7\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.weekly; }
"""


def read(text: str, *, system: bool | None = None, tz: str | None = None) -> Crontab:
    return read_crontab(text, source="crontab", system=system, tz=tz)


def only(text: str) -> Entry:
    crontab = read(text)
    assert crontab.faults == ()
    (entry,) = crontab.entries
    return entry


def test_debians_own_crontab_is_read_with_its_users() -> None:
    crontab = read(DEBIAN)
    assert crontab.faults == ()
    assert [entry.expression for entry in crontab.entries] == ["17 * * * *", "25 6 * * *", "47 6 * * 7"]
    assert {entry.user for entry in crontab.entries} == {"root"}
    assert crontab.entries[0].command == "cd / && run-parts --report /etc/cron.hourly"
    assert [entry.name for entry in crontab.entries] == ["run-parts", "run-parts-2", "run-parts-3"]
    assert any("not as root" in note for note in crontab.notes)


def test_a_users_crontab_has_no_user_column() -> None:
    entry = only("0 5 * * 1 tar -zcf /var/backups/home.tgz /home/\n")
    assert entry.user is None
    assert entry.command == "tar -zcf /var/backups/home.tgz /home/"


def test_the_lines_above_an_entry_are_its_environment() -> None:
    crontab = read("A=1\n0 0 * * * first\nA = '2 x'\nB=\"3\"\nSHELL=/bin/bash\nHOME=/srv\n0 1 * * * second\n")
    first, second = crontab.entries
    assert first.environment == (("A", "1"),)
    assert first.argv == ["/bin/sh", "-c", "first"]
    assert dict(second.environment) == {"A": "2 x", "B": "3", "HOME": "/srv"}
    assert second.argv == ["/bin/bash", "-c", "second"]
    assert second.cwd == "/srv"


def test_cron_tz_moves_what_stands_below_it() -> None:
    crontab = read("0 9 * * * a\nCRON_TZ=Asia/Tokyo\n0 9 * * * b\n", tz="Europe/Paris")
    assert [entry.tz for entry in crontab.entries] == ["Europe/Paris", "Asia/Tokyo"]


def test_a_percent_sign_ends_the_command_and_begins_its_stdin() -> None:
    entry = only("0 9 * * * mail -s hello bob%Dear Bob,%%Bye\n")
    assert entry.command == "mail -s hello bob"
    assert entry.stdin == "Dear Bob,\n\nBye\n"
    escaped = only("0 9 * * * echo $(date +\\%F)\n")
    assert escaped.command == "echo $(date +%F)"
    assert escaped.stdin is None


def test_reboot_is_left_out_with_a_note() -> None:
    crontab = read("@reboot /opt/start\n@hourly /opt/often\n")
    assert [entry.expression for entry in crontab.entries] == ["@hourly"]
    assert crontab.notes[0].startswith("1: @reboot")


def test_every_faulty_line_is_told_with_its_number() -> None:
    crontab = read(
        "99 * * * * a\n* * * * *\n@never b\nCRON_TZ=Mars/X\nTOCSIN_X=1\nSHELL=sh\n0 0 30 2 * c\n0 0 * * * % d\n"
    )
    assert [fault.partition(":")[0] for fault in crontab.faults] == ["1", "2", "3", "4", "5", "6", "7", "8"]


def test_a_crontab_that_calls_nothing_is_a_fault() -> None:
    assert read("# nothing\n\nA=1\n").faults


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/usr/local/bin/backup.sh --all", "backup"),
        ("cd /srv/app && /usr/bin/python3 manage.py send_mail >/dev/null 2>&1", "manage-send-mail"),
        ("/usr/bin/certbot -q renew", "certbot"),
        ("certbot renew --quiet", "certbot-renew"),
        ("flock -n /tmp/lock /opt/bin/cleanup.sh", "cleanup"),
        ("sudo -n /bin/systemctl restart nginx", "systemctl-restart"),
        ("timeout 60 nice -n 19 ./report.py", "report"),
        ("python3 -m pkg.report daily", "pkg-report-daily"),
        ("LANG=C sort /tmp/x", "sort"),
        ("test -x /usr/bin/certbot && perl -e 'sleep 3' && certbot -q renew", "certbot"),
        ("php /var/www/artisan schedule:run >> /dev/null", "artisan-schedule-run"),
        ("perl -e 'print 1'", "perl"),
        ("[ -d /x ]", "command"),
        ("timeout 5m /opt/slow", "slow"),
        ("root --help", "root"),
        ("ééé", "command"),
    ],
)
def test_names_tell_what_is_called(command: str, name: str) -> None:
    assert only(f"0 0 * * * {command}\n").name == name


def test_names_are_unique_and_the_same_command_is_one_agent() -> None:
    crontab = read("0 1 * * * /a/backup.sh\n0 2 * * * /b/backup.sh\n0 3 * * * /a/backup.sh\n")
    assert [entry.name for entry in crontab.entries] == ["backup", "backup-2", "backup-3"]
    assert [entry.agent for entry in crontab.entries] == ["backup", "backup-2", "backup"]


def test_the_app_loads_and_calls_what_cron_would(tmp_path: Path) -> None:
    text = (
        'PATH=/bin:/usr/bin\nQUOTES="say \\"x\\""\nCRON_TZ=Europe/Paris\n'
        '# the backup, with "quotes" and a \\ backslash\n'
        '30 2 * * mon-fri pg_dump shop | gzip > "/b/$(date +\\%F).gz" # tab:\there\n'
        "@weekly mail bob%line one%END\n"
    )
    path = tmp_path / "app.toml"
    path.write_text(write_app(read(text)))
    app = load_app(str(path))
    backup, mail = app.triggers
    assert backup.schedule is not None
    assert backup.schedule.rules == (Cron("30 2 * * mon-fri", "Europe/Paris"),)
    assert app.commands[backup.agent].argv == (
        "/bin/sh",
        "-c",
        'pg_dump shop | gzip > "/b/$(date +%F).gz" # tab:\there',
    )
    assert app.commands[backup.agent].env["PATH"] == "/bin:/usr/bin"
    assert app.commands[mail.agent].argv[2] == "(\nmail bob\n) <<'END_'\nline one\nEND\nEND_"
    assert "the backup" in path.read_text()


def test_crlf_and_a_missing_last_newline_are_borne() -> None:
    assert only("0 0 * * * a\r\n").command == "a"
    assert only("0 0 * * * a").command == "a"
