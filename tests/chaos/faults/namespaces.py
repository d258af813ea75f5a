"""F41: a network of a replica's own, whose packets are dropped without a word."""

import os
import secrets
import shutil
import subprocess
from typing import Final, Self

MISSING: Final = "network namespaces need root, iproute2 and iptables, and not every container allows them"


class Partition:
    """A namespace with one cable to us. here: our end's address, for a port that the replica is to reach.

    prefix: put before a command, runs it in there. dropped: packets that were dropped so far.
    """

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        number = secrets.randbelow(200)
        self._name = f"tocsin-{tag}"
        self._ours, self._theirs = f"t{tag}a", f"t{tag}b"
        self.here: Final = f"10.213.{number}.1"
        self._there = f"10.213.{number}.2"

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self._name]

    def __enter__(self) -> Self:
        """Raises: OSError, where that is not allowed."""
        try:
            _command("ip", "netns", "add", self._name)
            _command("ip", "link", "add", self._ours, "type", "veth", "peer", "name", self._theirs)
            _command("ip", "link", "set", self._theirs, "netns", self._name)
            _command("ip", "address", "add", f"{self.here}/30", "dev", self._ours)
            _command("ip", "link", "set", self._ours, "up")
            _command(*self.prefix, "ip", "address", "add", f"{self._there}/30", "dev", self._theirs)
            _command(*self.prefix, "ip", "link", "set", self._theirs, "up")
            _command(*self.prefix, "ip", "link", "set", "lo", "up")
            # Only counts, until there is something to drop.
            _command(*self.prefix, "iptables", "-L")
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for words in (["ip", "link", "del", self._ours], ["ip", "netns", "del", self._name]):
            subprocess.run(words, capture_output=True, check=False)

    def drop(self, port: int | None = None) -> None:
        """No packet comes in or goes out any more, or none of our port's; neither side is told."""
        for chain, end, side in (("INPUT", "-s", "--sport"), ("OUTPUT", "-d", "--dport")):
            which = ["-p", "tcp", side, str(port)] if port else []
            _command(*self.prefix, "iptables", "-A", chain, end, self.here, *which, "-j", "DROP")

    def heal(self) -> None:
        _command(*self.prefix, "iptables", "-F")

    @property
    def dropped(self) -> int:
        told = _command(*self.prefix, "iptables", "-L", "-v", "-x", "-n")
        return sum(int(line.split()[0]) for line in told.splitlines() if "DROP" in line and line.split()[0].isdigit())


def can_partition() -> bool:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("iptables"):
        return False
    try:
        with Partition():
            return True
    except OSError:
        return False


def _command(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OSError(f"{words[0]} is not installed") from error
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
