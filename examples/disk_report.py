"""A command agent: the run's input as JSON on stdin, its output as JSON on stdout, remarks on stderr.

echo '{"temporary": "/tmp"}' | python examples/disk_report.py
"""

import json
import os
import shutil
import sys


def main() -> int:
    report = {}
    for name, path in json.load(sys.stdin).items():
        try:
            usage = shutil.disk_usage(path)
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            continue
        report[name] = {"free_gb": round(usage.free / 1e9, 1), "used_percent": round(100 * usage.used / usage.total)}
    load = os.getloadavg()[0]
    json.dump({"load": round(load, 2)} | report, sys.stdout)
    # An exit code of 0 is a success, 75 asks to be tried again later, any other is a failure.
    return 0 if report else 1


if __name__ == "__main__":
    sys.exit(main())
