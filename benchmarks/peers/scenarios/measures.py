"""Small measures that several scenarios take."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def quantile(values: Sequence[float], share: float) -> float:
    """values: sorted. The smallest one that at least such a share does not exceed."""
    return values[min(len(values) - 1, max(0, -(-int(share * 1e6) * len(values) // 1_000_000) - 1))]


def cpu_seconds(pid: int) -> float:
    """What the process and its threads have used so far; 0 for one that is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / TICKS


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


async def busy_cores(seconds: float) -> float:
    """So many cores have been at work during this time, with whatever it was; 0 where nobody can tell."""
    before = _busy_ticks()
    await asyncio.sleep(seconds)
    return round((_busy_ticks() - before) / TICKS / seconds, 2)


def _busy_ticks() -> int:
    path = Path("/proc/stat")
    if not path.exists():
        return 0
    # user, nice, system, idle, iowait, irq, softirq, steal: all but the two in which nothing was done.
    numbers = [int(word) for word in path.read_text().splitlines()[0].split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4]
