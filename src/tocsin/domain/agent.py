"""An agent as the hub knows it: a name and the policy that its runs follow."""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from tocsin.domain.errors import BadInput

MAX_NAME: Final = 200
MAX_PAYLOAD: Final = 1024 * 1024
"""Bytes of JSON that an input or an output may have."""


_UNFIT: Final = re.compile(r"""^-|[\s/\\'"]""")


class OnLost(StrEnum):
    """What becomes of a run whose holder died: begun again, or closed as failed."""

    RETRY = "retry"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """The policy of one agent.

    timeout: limit of one attempt; deadline: limit of the whole run, counted from its effective
    instant; None is without limit. max_attempts: 1 + retries. Back-off before retry ``k`` is drawn
    from [0, min(backoff_cap, backoff_base · 2^(k-1))] (full jitter; Source: Brooker, "Exponential
    Backoff And Jitter", 2015). retry_on and no_retry are names of exception classes; an empty
    retry_on means every one. concurrency: runs at once over all replicas, or per value of
    ``concurrency_key`` (a dotted path into the input) where that is given. suspect_after and
    dead_after: silence of an instance that runs it, instead of the hub's; stall_after: how long a run
    may go without progress before it is asked to stop; None is without limit.
    """

    name: str
    timeout: timedelta | None = None
    deadline: timedelta | None = None
    max_attempts: int = 1
    backoff_base: timedelta = timedelta(seconds=1)
    backoff_cap: timedelta = timedelta(minutes=5)
    retry_on: tuple[str, ...] = ()
    no_retry: tuple[str, ...] = ()
    on_lost: OnLost = OnLost.RETRY
    concurrency: int | None = None
    concurrency_key: str | None = None
    cancel_within: timedelta = timedelta(seconds=30)
    suspect_after: timedelta | None = None
    dead_after: timedelta | None = None
    stall_after: timedelta | None = None

    def __post_init__(self) -> None:
        check_name("agent", self.name)
        limits = ("timeout", "deadline", "suspect_after", "dead_after", "stall_after")
        for what, limit in ((name, getattr(self, name)) for name in limits):
            if limit is not None and limit <= timedelta(0):
                raise BadInput(f"agent {self.name!r}: {what} must be longer than 0 s; leave it out for no limit")
        if not 1 <= self.max_attempts <= 100:
            raise BadInput(f"agent {self.name!r}: retries must be 0–99, not {self.max_attempts - 1}")
        if self.concurrency is not None and not 1 <= self.concurrency <= 10_000:
            raise BadInput(f"agent {self.name!r}: concurrency must be 1–10000, not {self.concurrency}")
        if self.concurrency_key is not None and self.concurrency is None:
            raise BadInput(f"agent {self.name!r}: concurrency_key needs concurrency, the limit per key")
        if not timedelta(0) <= self.backoff_base <= self.backoff_cap:
            raise BadInput(f"agent {self.name!r}: backoff must be at least 0 s and at most its cap {self.backoff_cap}")
        if self.suspect_after and self.dead_after and self.suspect_after >= self.dead_after:
            raise BadInput(f"agent {self.name!r}: suspect_after must be shorter than dead_after")
        if self.cancel_within < timedelta(0):
            raise BadInput(f"agent {self.name!r}: cancel_within must not be negative")


def check_name(kind: str, name: object) -> None:
    """The name can stand in a log line, a URL and a shell.

    Raises: BadInput.
    """
    if not isinstance(name, str) or not name:
        raise BadInput(f"{kind} name {name!r}: must be a text that is not empty")
    if len(name) > MAX_NAME:
        raise BadInput(f"{kind} name {name[:40]!r}…: at most {MAX_NAME} characters, this has {len(name)}")
    if not name.strip("."):
        raise BadInput(f"{kind} name {name!r}: has dots only, which lead elsewhere in a URL: add a letter")
    if not name.isprintable() or _UNFIT.search(name):
        raise BadInput(f"{kind} name {name!r}: no spaces, quotes, slashes or control characters, and no dash in front")
