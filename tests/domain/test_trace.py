"""Ids of traces follow from those of runs, look random, and are written as W3C Trace Context has it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from tocsin.domain.trace import (
    Traceparent,
    attempt_of,
    called_at,
    queued_of,
    read_traceparent,
    root_of,
    trace_of,
    traceparent_of,
)

RUN = UUID("01a21630-dd9d-760f-9a3b-f2dcee862feb")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_the_ids_of_a_run_are_the_same_on_every_replica_and_in_every_release() -> None:
    """A hub that is updated in the middle of a run goes on with its trace."""
    assert f"{trace_of(RUN):032x}" == "201b5220e51582d1c18a1a67f72b7d2b"
    assert f"{root_of(RUN):016x}" == "1133ab3c5036c319"
    assert str(traceparent_of(RUN, 3, sampled=True)) == "00-201b5220e51582d1c18a1a67f72b7d2b-97f8646e1b27d108-01"
    assert str(traceparent_of(RUN, 3, sampled=False)).endswith("-00")


def test_no_two_spans_of_a_run_have_one_id() -> None:
    ids = [root_of(RUN), *(of(RUN, fence) for of in (attempt_of, queued_of) for fence in range(1, 100))]
    assert len(set(ids)) == len(ids)


def test_a_sampler_of_shares_takes_its_share_of_runs() -> None:
    """It compares the lower half of an id with a bound; those of a run's own id all lie in one quarter."""
    low = sum(trace_of(uuid7()) & (2**64 - 1) < 2**64 // 10 for _ in range(5_000))
    assert 350 < low < 650


def test_what_is_written_is_read() -> None:
    place = traceparent_of(uuid4(), 1, sampled=True)
    assert read_traceparent(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n00",
    ],
)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    assert read_traceparent(text) is None


def test_of_a_later_version_what_is_known_is_read() -> None:
    text = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more"
    assert read_traceparent(text) == Traceparent(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, 3)


def test_a_run_is_called_at_its_instant_or_when_it_was_written_and_never_after_its_begin() -> None:
    made = UUID(int=int(NOON.timestamp() * 1_000) << 80 | 7 << 76 | 2 << 62)
    assert called_at(made, NOON - 3600 * SECOND, NOON + SECOND) == NOON
    assert called_at(made, NOON + SECOND, NOON + 2 * SECOND) == NOON + SECOND
    assert called_at(made, NOON - SECOND, NOON - SECOND / 2) == NOON - SECOND / 2
    assert called_at(uuid4(), NOON - SECOND, NOON) == NOON - SECOND
