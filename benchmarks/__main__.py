"""Every benchmark, one after the other: ``python3 dev.py bench``; ``--quick``: those against peers, in minutes."""

import subprocess
import sys

MODULES = (
    "benchmarks.cron",
    "benchmarks.startup",
    "benchmarks.engine",
    "benchmarks.listing",
    "benchmarks.agents",
    "benchmarks.stream",
    "benchmarks.hooks",
    "benchmarks.peers",
)

quick = sys.argv[1:] == ["--quick"]
for module in ("benchmarks.peers",) if quick else MODULES:
    print(f"\n== python -m {module}", flush=True)
    if subprocess.run([sys.executable, "-m", module, *(["--quick"] if quick else [])], check=False).returncode:
        sys.exit(f"{module} failed")
