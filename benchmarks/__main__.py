"""Every benchmark, one after the other: ``python3 dev.py bench``."""

import subprocess
import sys

for module in ("benchmarks.cron", "benchmarks.startup", "benchmarks.engine"):
    print(f"\n== python -m {module}", flush=True)
    if subprocess.run([sys.executable, "-m", module], check=False).returncode:
        sys.exit(f"{module} failed")
