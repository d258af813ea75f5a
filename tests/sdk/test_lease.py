"""The lease's end, to the instant; and how long is waited between two tries."""

from typing import Any

import grpc
import pytest

from tocsin.domain.errors import Refused
from tocsin.sdk.lease import SHARE, Lease
from tocsin.sdk.standing import Patience, Standing
from tocsin.sdk.stream import End
from tocsin.telemetry import Silence


def ends(since: float, dead_after: float) -> Any:
    return pytest.approx(since + dead_after * SHARE)


def test_a_lease_counts_from_the_hello_until_a_beat_is_answered() -> None:
    lease = Lease()
    assert lease.ends_at is None
    lease.welcomed(100.0, 10.0)
    assert lease.ends_at == ends(100.0, 10.0)
    seq = lease.sending(103.0)
    assert lease.ends_at == ends(100.0, 10.0)
    assert lease.taken(seq)
    assert lease.ends_at == ends(103.0, 10.0)


def test_answers_count_for_the_beat_that_they_name() -> None:
    lease = Lease()
    lease.welcomed(100.0, 10.0)
    first, second, third = (lease.sending(at) for at in (101.0, 102.0, 103.0))
    assert (first, second, third) == (1, 2, 3)
    assert lease.taken(second)
    assert lease.ends_at == ends(102.0, 10.0)
    assert not lease.taken(first)
    assert not lease.taken(99)
    assert lease.ends_at == ends(102.0, 10.0)


def test_another_stream_does_not_lengthen_it_and_answers_no_older_beat() -> None:
    lease = Lease()
    lease.welcomed(100.0, 10.0)
    seq = lease.sending(104.0)
    lease.welcomed(105.0, 10.0)
    assert lease.ends_at == ends(100.0, 10.0)
    assert not lease.taken(seq)
    lease.welcomed(106.0, 20.0)
    assert lease.ends_at == ends(100.0, 20.0)


def test_after_its_end_the_next_hello_begins_anew_and_numbers_go_on() -> None:
    lease = Lease()
    lease.welcomed(100.0, 10.0)
    seq = lease.sending(101.0)
    lease.end()
    assert lease.ends_at is None
    assert not lease.taken(seq)
    lease.welcomed(200.0, 10.0)
    assert lease.ends_at == ends(200.0, 10.0)
    assert lease.sending(201.0) == seq + 1


def a_standing() -> Standing:
    standing = Standing(patience=Patience(first=0.2, most=5.0), log=Silence())
    standing.trying()
    return standing


def longest(standing: Standing) -> float:
    return max(standing.pause() for _ in range(300))


def test_pauses_grow_to_their_bound_and_are_drawn_from_nothing_up() -> None:
    standing = a_standing()
    bounds = []
    for _ in range(8):
        standing.judge("hub", End(grpc.StatusCode.UNAVAILABLE), 0.0)
        bounds.append(longest(standing))
        assert min(standing.pause() for _ in range(300)) < bounds[-1] / 10
    assert bounds[:3] == pytest.approx([0.4, 0.8, 1.6], rel=0.1)
    assert 4.5 < max(bounds) <= 5.0


def test_a_stream_that_has_lasted_is_no_failure() -> None:
    standing = a_standing()
    for _ in range(5):
        standing.judge("hub", End(grpc.StatusCode.UNAVAILABLE), 0.0)
    standing.welcomed()
    standing.judge("hub", End(grpc.StatusCode.UNAVAILABLE), 1.0)
    assert longest(standing) > 1
    standing.judge("hub", End(grpc.StatusCode.UNAVAILABLE), 60.0)
    assert longest(standing) <= 0.2


def test_a_refusal_is_final_only_before_the_first_welcome() -> None:
    standing = a_standing()
    with pytest.raises(Refused, match="TOCSIN_AGENT_KEY"):
        standing.judge("hub", End(grpc.StatusCode.UNAUTHENTICATED, "no key"), 0.0)
    standing.welcomed()
    standing.judge("hub", End(grpc.StatusCode.UNAUTHENTICATED, "no key"), 0.0)
