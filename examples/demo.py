"""The demo: five agents with real work on this checkout and this machine. No network, no keys.

    python3 dev.py demo                         or, where Tocsin is installed,
    tocsin up examples/demo.py

    digest      async     reads a git history commit by commit and writes a Markdown digest of what is new
    index       def       hashes files in a thread, finds duplicates, and writes an index line by line
    proofread   async     checks the newest index; while that is being written it fails, and is retried
    disk        program   disk_report.py: JSON on stdin, JSON on stdout
    inventory   async     counts lines directory by directory; each step wakes the next

What they write is below TOCSIN_HOME (``.tocsin``): digests/, index.jsonl, inventory.md. With
OPENAI_API_KEY set and the extra ``ai`` installed, a model writes the digest's prose.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from history import Change, Reading, changes_of
from prose import prose_of

from tocsin import Cancelled, Hub, RetryAfter, Run, at, cron, every

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("TOCSIN_HOME", ".tocsin")).expanduser().resolve()
DIGESTS = HOME / "digests"
INDEX = HOME / "index.jsonl"
LEFT_OUT = {".git", ".venv", ".tocsin", "__pycache__", "node_modules"}
LARGEST = 4_000_000

hub = Hub()


# --- digest: incremental over commits, its own last success is the cursor


@hub.agent(timeout="2m", retries=2)
async def digest(run: Run) -> dict[str, Any]:
    """A Markdown digest of the commits since the last one; ``head`` is how far we have read."""
    cursor = run.last.output["head"] if run.last else None
    run.progress("looking for what is new")
    reading = await changes_of(Path(run.input["repo"]), after=cursor, limit=run.input["commits"], report=run.progress)
    if not reading.changes:
        return {"head": reading.head, "commits": 0, "left": 0, "file": None, "source": reading.source}
    prose = await prose_of(reading.changes, reading.source)
    if prose.model is not None:
        run.usage(model=prose.model, input_tokens=prose.input_tokens, output_tokens=prose.output_tokens)
    file = DIGESTS / f"{run.nominal_at:%Y%m%dT%H%M%S}.md"
    write_whole(file, digest_text(reading, prose.text))
    return {
        "head": reading.head,
        "commits": len(reading.changes),
        "left": reading.left,
        "file": file.name,
        "source": reading.source,
    }


def digest_text(reading: Reading, prose: str) -> str:
    lines = [f"# {len(reading.changes)} changes in {reading.place.name}", "", prose, ""]
    if reading.note:
        lines += [f"> {reading.note}", ""]
    for area, changes in grouped(reading.changes).items():
        lines += [f"## {area}", "", *(f"- {one.title} ({one.author}, {one.at:%Y-%m-%d})" for one in changes), ""]
    return "\n".join(lines)


def grouped(changes: list[Change]) -> dict[str, list[Change]]:
    """Changes by the part of the tree that they touched most, the busiest part first."""
    areas: dict[str, list[Change]] = {}
    for change in changes:
        areas.setdefault(change.area, []).append(change)
    return dict(sorted(areas.items(), key=lambda item: (-len(item[1]), item[0])))


# --- index: a plain function, slow because it spares the disk, and asked to stop in between


@hub.agent(timeout="1m", cancel_within="10s")
def index(run: Run) -> dict[str, Any]:
    """The next stretch of files is hashed into index.jsonl; the last line says that it is whole."""
    files = sorted({*files_below(CHECKOUT), *files_below(Path(os.__file__).parent)})
    after = run.last.output["resume_after"] if run.last else ""
    start = sum(str(file) <= after for file in files)
    budget, rate = run.input["mb"] * 1_000_000, run.input["mb_per_second"] * 1_000_000
    seen: dict[str, str] = {}
    doubles, read, began = 0, 0, time.monotonic()
    cursor = after
    HOME.mkdir(parents=True, exist_ok=True)
    # Written in place on purpose: whoever reads meanwhile sees a part, as with most feeds in the world.
    with INDEX.open("w", encoding="utf-8") as out:
        for file in files[start:] + files[:start]:
            if read >= budget or run.cancelled:
                break
            size, name = hashed(file)
            if name is None:
                continue
            doubles += seen.setdefault(name, str(file)) != str(file)
            read, cursor = read + size, str(file)
            out.write(json.dumps({"file": str(file), "sha256": name, "bytes": size}) + "\n")
            run.progress(f"{file.name}, {doubles} doubles so far", fraction=min(1.0, read / budget))
            run.cancelled.wait(max(0.0, began + read / rate - time.monotonic()))
            out.flush()
        out.write(json.dumps({"whole": True, "files": len(seen) + doubles}) + "\n")
    # Stopped early is no failure: the next run goes on from the cursor.
    return {"files": len(seen) + doubles, "doubles": doubles, "mb": round(read / 1e6, 1), "resume_after": cursor}


def files_below(top: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(top):
        names[:] = sorted(set(names) - LEFT_OUT)
        yield from (Path(directory, file) for file in files)


def hashed(file: Path) -> tuple[int, str | None]:
    """Its size and its hash; None for one that is empty, very large, gone or unreadable."""
    try:
        content = file.read_bytes() if file.stat().st_size <= LARGEST else b""
    except OSError:
        return 0, None
    return len(content), hashlib.sha256(content).hexdigest() if content else None


# --- proofread: reads what another agent is writing, so it fails at times


class HalfWritten(Exception):
    """The index has no end yet."""


@hub.agent(retries=8, backoff="2s", backoff_cap="4s", retry_on=HalfWritten, timeout="10s")
async def proofread(run: Run) -> dict[str, Any]:
    """The index is whole and each line of it can be read."""
    if not INDEX.exists():
        raise RetryAfter(2, "no index has been begun yet")  # waiting for it uses up no attempt
    lines = INDEX.read_text(encoding="utf-8").splitlines()
    try:
        rows = [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise HalfWritten(f"line {len(lines)} stops in its middle") from error
    if not rows or not rows[-1].get("whole"):
        raise HalfWritten(f"{len(rows)} lines and no end: the index is being written")
    if rows[-1]["files"] != len(rows) - 1:
        raise ValueError(f"the index says {rows[-1]['files']} files and has {len(rows) - 1}")
    return {"files": len(rows) - 1, "attempts": run.attempt}


# --- inventory: a one-shot that wakes itself again, a directory at a time


@hub.agent(timeout="30s")
async def inventory(run: Run) -> dict[str, Any]:
    """Lines by kind of file, one directory a step; the last step writes inventory.md."""
    state = run.input or {"rest": top_directories(), "lines": {}}
    if not state["rest"]:
        rows = sorted(state["lines"].items(), key=lambda item: -item[1])
        table = ["| kind | lines |", "|---|---|", *(f"| {kind} | {count} |" for kind, count in rows)]
        write_whole(HOME / "inventory.md", "\n".join(["# What is in the checkout", "", *table, ""]))
        return {"kinds": len(rows), "lines": sum(state["lines"].values())}
    here, *rest = state["rest"]
    lines = dict(state["lines"])
    for file in files_below(CHECKOUT / here):
        if run.cancelled:
            raise Cancelled
        if file.suffix in {".py", ".sql", ".md", ".toml", ".txt"}:
            lines[file.suffix] = lines.get(file.suffix, 0) + file.read_bytes().count(b"\n")
    run.schedule(after=2, input={"rest": rest, "lines": lines})
    return {"directory": here, "left": len(rest)}


def top_directories() -> list[str]:
    return sorted(path.name for path in CHECKOUT.iterdir() if path.is_dir() and not path.name.startswith("."))


# --- disk: a program in any language


hub.command(
    "disk", [sys.executable, str(Path(__file__).with_name("disk_report.py"))], timeout="10s", retries=1, backoff="1s"
)


def write_whole(file: Path, text: str) -> None:
    """The file has all of the text or does not change; nobody sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def first_start() -> datetime:
    """When the demo was first started here. An instant of a one-shot must be the same each time it is declared."""
    mark = HOME / "demo-first-start"
    if not mark.exists():
        write_whole(mark, datetime.now(UTC).isoformat(timespec="seconds"))
    return datetime.fromisoformat(mark.read_text(encoding="utf-8"))


PLACES = {"checkout": str(CHECKOUT), "temporary": tempfile.gettempdir()}
SOME_COMMITS = {"repo": str(CHECKOUT), "commits": 6}

hub.trigger("disk", "disk", cron("*/3 * * * * *"), input=PLACES, expires_after="10s")
hub.trigger("digest", digest, every("10s"), input=SOME_COMMITS)
# Due every 4 s and busy for some 6 s: what falls into a run is skipped, and `tocsin trigger why index` says so.
hub.trigger("index", index, every("4s"), input={"mb": 24, "mb_per_second": 4}, overlap="skip")
hub.trigger("proofread", proofread, every("7s"), overlap="queue_one")
hub.trigger("inventory", inventory, at(first_start() + timedelta(seconds=5)))
hub.trigger("weekday-digest", digest, cron("0 9 * * mon-fri", tz="Europe/Paris"), input=SOME_COMMITS)
