"""The second example is what the importer makes of the first file."""

import subprocess
import sys
from pathlib import Path

from tocsin import load_app

ROOT = Path(__file__).resolve().parents[2]
CRONTAB = ROOT / "examples" / "crontab"


def test_importing_the_crontab_gives_the_committed_app() -> None:
    words = ["import", "crontab", "examples/crontab/crontab.txt"]
    made = subprocess.run(
        [sys.executable, "-m", "tocsin.cli", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert made.stdout == (CRONTAB / "app.toml").read_text(encoding="utf-8")


def test_the_app_loads_with_a_trigger_for_each_line() -> None:
    app = load_app(str(CRONTAB / "app.toml"))
    lines = CRONTAB.joinpath("crontab.txt").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and not line.startswith("#") and "=" not in line.split()[0]]
    assert len(app.triggers) == len(entries) == len(app.commands)
    assert all(trigger.schedule is not None for trigger in app.triggers)
