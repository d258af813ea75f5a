"""Events on their way to a hub, in as few requests as they fit into."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from tocsin.domain.agent import MAX_PAYLOAD
from tocsin.domain.cloudevents import structured
from tocsin.domain.event import Event

BATCHED: Final = "application/cloudevents-batch+json"
MOST: Final = 1_000
"""Events in one request."""


def batches(events: Sequence[Event]) -> Iterator[list[msgspec.Raw]]:
    """In their order, each of at most 1,000 and of at most 1 MiB unless it is a single one.

    Raises: BadInput, PayloadTooLarge, before the first of them.
    """
    for event in events:
        event.check()
    batch: list[msgspec.Raw] = []
    size = 0
    for event in events:
        form = msgspec.json.encode(structured(event))
        # A comma behind each of them, and two brackets.
        if batch and (len(batch) == MOST or size + len(form) + 1 > MAX_PAYLOAD - 2):
            yield batch
            batch, size = [], 0
        batch.append(msgspec.Raw(form))
        size += len(form) + 1
    if batch:
        yield batch
