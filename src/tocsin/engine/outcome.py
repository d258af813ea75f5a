"""The border that an agent's doings cross: an assignment in, and whatever comes back as an Outcome."""

import asyncio
from datetime import timedelta
from typing import Final

from tocsin.domain.agent import AgentSpec
from tocsin.domain.errors import BadInput, Cancelled, Fatal, PayloadTooLarge, RetryAfter
from tocsin.domain.payload import encode, plain
from tocsin.domain.run import Failed, Outcome, Postponed, Stopped, Succeeded
from tocsin.run import StopSignal

MAX_DELAY: Final = 366 * 24 * 3600.0
"""Seconds that an agent may ask to be left alone."""

RETRY_SECONDS: Final = 60.0
"""For one that asks, but does not say how many."""


def result_of(value: object) -> Outcome:
    """The agent's return value is its output; one that cannot be stored fails for good."""
    try:
        return Succeeded(encode(value, what="output"))
    except BadInput as refusal:
        return refused_result(refusal)


def refused_result(refusal: BadInput) -> Failed:
    """Retrying is pointless: the work was done, and would be done again for the same result."""
    kind = "PayloadTooLarge" if isinstance(refusal, PayloadTooLarge) else "NonJSONResult"
    return Failed(kind, plain(str(refusal)), final=True)


def postponed(seconds: float, reason: str) -> Postponed:
    """However odd the number, the delay is one that the store can add to an instant."""
    return Postponed(float(max(0.0, min(seconds, MAX_DELAY))), plain(reason))


def outcome_of(error: BaseException, stop: StopSignal, policy: AgentSpec) -> Outcome:
    """What an exception that left the agent means.

    A CancelledError nobody asked for is a failure like any other. A subclass of a class that the
    policy names in retry_on or no_retry is reported under that name, so that it follows the policy.
    A group that holds one exception counts as that one. Never raises, however odd the exception's class:
    whoever awaits the attempt would wait for ever.
    """
    try:
        return _meaning(error, stop, policy)
    except BaseException:
        return Failed(plain(type(error).__name__, 200), _text(error))


def _meaning(error: BaseException, stop: StopSignal, policy: AgentSpec) -> Outcome:
    leaves = _leaves(error)
    if len(leaves) > 1:
        return _group_failed(error, leaves)
    match leaves[0]:
        case RetryAfter() as wish:
            return postponed(_wished(wish), _text(wish))
        case Fatal() as fatal:
            return Failed("Fatal", _text(fatal), final=True)
        case Cancelled():
            return Stopped()
        case asyncio.CancelledError() as cancelled:
            unasked = Failed("CancelledError", _text(cancelled) or "cancelled itself; no stop was asked for")
            return Stopped() if stop.requested else unasked
        case other:
            return _failed(other, policy)


def _wished(wish: RetryAfter) -> float:
    """A subclass with an __init__ of its own may have set no seconds, or something else under that name."""
    match getattr(wish, "seconds", None):
        case timedelta() as delay:
            return delay.total_seconds()
        case int() | float() as seconds:
            return seconds
        case _:
            return RETRY_SECONDS


def _failed(error: BaseException, policy: AgentSpec) -> Failed:
    kind = type(error).__name__
    named = {*policy.retry_on, *policy.no_retry}
    followed = next((base.__name__ for base in type(error).__mro__ if base.__name__ in named), kind)
    if followed == kind:
        return Failed(plain(kind, 200), _text(error))
    return Failed(followed, plain(f"{kind}: {_text(error)}"))


def _group_failed(group: BaseException, leaves: list[BaseException]) -> Failed:
    told = "; ".join(f"{type(leaf).__name__}: {_text(leaf)}" for leaf in leaves[:10])
    return Failed(
        type(group).__name__,
        plain(f"{len(leaves)} exceptions: {told}"),
        final=any(isinstance(leaf, Fatal) for leaf in leaves),
    )


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions that are no groups, in order. Without recursion: groups may be nested without end."""
    leaves: list[BaseException] = []
    stack = [error]
    while stack:
        part = stack.pop()
        if isinstance(part, BaseExceptionGroup):
            stack.extend(reversed(part.exceptions))
        else:
            leaves.append(part)
    return leaves


def _text(error: BaseException) -> str:
    """The exception's own words; an exception that cannot even say them is named by its class."""
    try:
        return plain(str(error))
    except BaseException:
        return type(error).__name__
