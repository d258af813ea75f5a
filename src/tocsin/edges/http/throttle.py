"""How often one address may show a key that opens nothing."""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

from tocsin.clock import Clock

FAILURES: Final = 10
"""At once."""

REFILL: Final = 6.0
"""Seconds after which one more is granted."""

MOST_ADDRESSES: Final = 10_000


class Throttle:
    """A bucket of failures for each address, an IPv6 network of 64 bits being one. Whoever fails least recently is
    forgotten first, so that its size is bounded.
    """

    def __init__(self, *, clock: Clock, failures: int = FAILURES) -> None:
        self._clock = clock
        self._failures = failures
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def fail(self, address: str) -> float | None:
        """One more failure. None while it is within bounds, else the seconds until the next is granted."""
        network = _network(address)
        now = self._clock.monotonic()
        spent, since = self._spent.pop(network, (0.0, now))
        spent = max(0.0, spent - (now - since) / REFILL)
        is_over = spent + 1 > self._failures
        self._spent[network] = (spent if is_over else spent + 1, now)
        if len(self._spent) > MOST_ADDRESSES:
            self._spent.popitem(last=False)
        return (spent + 1 - self._failures) * REFILL if is_over else None


def _network(address: str) -> str:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped) if mapped is not None else str(IPv6Address(int(found) >> 64 << 64))
    return str(found)
