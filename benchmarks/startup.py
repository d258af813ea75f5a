"""How long until something happens: the help text, the first fire, and a clone's first run.

python -m benchmarks.startup                # help, first fire; five times each
python -m benchmarks.startup --clone        # and a clean clone with pip alone, once: takes a minute
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
TOCSIN = Path(sys.executable).with_name("tocsin")
TIMES = 5

APP = """
from tocsin import Hub, every
hub = Hub()

@hub.agent
async def tick() -> None: ...

hub.trigger("tick", tick, every("1s"))
"""


def help_text() -> float:
    """Seconds that ``tocsin --help`` takes."""
    started = perf_counter()
    subprocess.run([TOCSIN, "--help"], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - started


def first_run(command: list[str], *, cwd: Path, env: dict[str, str]) -> float:
    """Seconds from starting a command to the first ``run.started`` line it prints."""
    started = perf_counter()
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # asked for above
        took = None
        for line in process.stdout:
            if took is None and "run.started" in line:
                took = perf_counter() - started
                process.terminate()
    if took is None:
        raise RuntimeError(f"{command} began no run")
    return took


def first_fire(folder: Path) -> float:
    """Seconds from ``tocsin up`` to the first run, on a data directory that exists."""
    (folder / "app.py").write_text(APP, encoding="utf-8")
    env = os.environ | {
        "TOCSIN_HOME": str(folder / "home"),
        "TOCSIN_HTTP_BIND": "127.0.0.1:0",
        "TOCSIN_GRPC_BIND": "127.0.0.1:0",
    }
    return first_run([str(TOCSIN), "up", "app.py"], cwd=folder, env=env)


def clone_to_first_run(folder: Path) -> float:
    """Seconds from ``git clone`` to the demo's first run: a clean home, pip, nothing cached."""
    hidden = {
        "HOME": str(folder),
        "PIP_NO_CACHE_DIR": "1",
        "TOCSIN_HTTP_BIND": "127.0.0.1:0",
        "TOCSIN_GRPC_BIND": "127.0.0.1:0",
    }
    env = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | hidden
    started = perf_counter()
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "clone")], check=True)
    python = getattr(sys, "_base_executable", sys.executable)
    first_run([python, "dev.py", "demo", "--for", "60"], cwd=folder / "clone", env=env)
    return perf_counter() - started


def show(name: str, values: list[float]) -> None:
    print(f"{name:>20}  {statistics.median(values):8.3f} s   ({min(values):.3f} – {max(values):.3f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", action="store_true")
    options = parser.parse_args()
    show("tocsin --help", repeated(help_text))
    with tempfile.TemporaryDirectory() as folder:
        first_fire(Path(folder))
        show("up to first run", repeated(lambda: first_fire(Path(folder))))
    if options.clone:
        with tempfile.TemporaryDirectory() as folder:
            show("clone to first run", [clone_to_first_run(Path(folder))])


def repeated(measure: Callable[[], float]) -> list[float]:
    return [measure() for _ in range(TIMES)]


if __name__ == "__main__":
    main()
