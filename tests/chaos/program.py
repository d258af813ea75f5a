"""An agent that is a program: the same ledger, from a process of its own. Imports nothing of ours."""

import json
import os
import sys
import time
import zlib


def main() -> int:
    given = json.load(sys.stdin)
    told = os.environ
    path = os.path.join(told["CHAOS_LEDGERS"], f"{os.getpid()}.jsonl")
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    about = {
        "run": told["TOCSIN_RUN_ID"],
        "attempt": int(told["TOCSIN_ATTEMPT"]),
        "fence": int(told["TOCSIN_FENCE"]),
        "pid": os.getpid(),
    }

    def note(what: str, **fields: object) -> None:
        line = json.dumps({"mono": time.monotonic(), "what": what, **about, **fields})
        os.write(file, line.encode() + b"\n")

    note(
        "START",
        trigger=told["TOCSIN_TRIGGER"],
        key=told["TOCSIN_IDEMPOTENCY_KEY"],
        effective=told["TOCSIN_EFFECTIVE_AT"],
    )
    lengths = given["seconds"]
    seconds = lengths[zlib.crc32(f"{told['TOCSIN_TRIGGER']} {told['TOCSIN_NOMINAL_AT']}".encode()) % len(lengths)]
    time.sleep(seconds / 2)
    note("EFFECT")
    time.sleep(seconds / 2)
    note("END", end=given.get("end", "ok"))
    return {"error": 1, "fatal": 1, "later": 75}.get(given.get("end"), 0)


if __name__ == "__main__":
    sys.exit(main())
