"""The author's face: what is declared on a Hub, and what is refused at once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from tocsin import Hub, Run, at, cron, every, on_event
from tocsin.domain.agent import AgentSpec, OnLost
from tocsin.domain.errors import BadInput, InvalidApp, PayloadTooLarge
from tocsin.domain.trigger import CatchUp, Overlap
from tocsin.executors.command import Command
from tocsin.executors.from_app import executors_of
from tocsin.executors.inprocess import InProcess


async def digest(run: Run) -> int:
    return run.attempt


def refusal(declare: Callable[[], object]) -> str:
    with pytest.raises(BadInput) as caught:
        declare()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_declared_function_stays_what_it_was() -> None:
    hub = Hub()
    assert hub.agent(digest) is digest
    assert hub.agent(name="other", timeout="10m")(digest) is digest


def test_an_agent_has_its_functions_name_and_the_policy_that_was_said() -> None:
    hub = Hub()
    hub.agent(digest)
    hub.agent(
        name="full",
        timeout="10m",
        deadline=3600,
        retries=2,
        backoff=timedelta(seconds=2),
        backoff_cap="1m",
        retry_on=(TimeoutError, "httpx.ReadTimeout"),
        no_retry=KeyError,
        on_lost="fail",
        concurrency=4,
        concurrency_key="repo",
        cancel_within="5s",
    )(digest)
    assert hub.build().agents == {
        "digest": AgentSpec(name="digest"),
        "full": AgentSpec(
            name="full",
            timeout=timedelta(minutes=10),
            deadline=timedelta(hours=1),
            max_attempts=3,
            backoff_base=timedelta(seconds=2),
            backoff_cap=timedelta(minutes=1),
            retry_on=("TimeoutError", "ReadTimeout"),
            no_retry=("KeyError",),
            on_lost=OnLost.FAIL,
            concurrency=4,
            concurrency_key="repo",
            cancel_within=timedelta(seconds=5),
        ),
    }


def test_a_trigger_names_its_agent_by_function_or_by_name() -> None:
    hub = Hub()
    hub.agent(digest)
    hub.command("backup", ["pg_dump", "shop"], env={"PGHOST": "db"})
    hub.trigger(
        "a", digest, cron("0 9 * * mon-fri", tz="Europe/Paris"), input={"day": datetime(2026, 1, 2, tzinfo=UTC)}
    )
    hub.trigger(
        "b",
        "backup",
        every("5m") | every("7m"),
        overlap="queue_one",
        overlap_scope="input.repo",
        catch_up="all",
        catch_up_window="1h",
        max_catch_up=3,
        grace=30,
        expires_after="2h",
        priority=9,
    )
    hub.trigger("c", digest)
    a, b, c = hub.build().triggers
    assert (a.agent, a.input) == ("digest", {"day": "2026-01-02T00:00:00Z"})
    assert (b.overlap, b.overlap_scope, b.catch_up) == (Overlap.QUEUE_ONE, "input.repo", CatchUp.ALL)
    assert (b.catch_up_window, b.max_catch_up, b.grace) == (timedelta(hours=1), 3, timedelta(seconds=30))
    assert (b.expires_after, b.priority) == (timedelta(hours=2), 9)
    assert c.schedule is None


def test_saying_the_same_again_changes_nothing() -> None:
    hub = Hub()
    for _ in range(2):
        hub.agent(timeout="1m")(digest)
        hub.command("backup", ["pg_dump"])
        hub.trigger("a", digest, every("1m"), input=(1, 2))
    assert len(hub.build().triggers) == 1


def test_a_fault_is_refused_at_once_and_named() -> None:
    hub = Hub()
    hub.agent(digest)
    hub.agent(name="again")(digest)
    hub.command("backup", ["pg_dump"])
    hub.trigger("a", "digest", every("1m"))
    wrong = cast(Any, hub)
    for declare, said in (
        (lambda: hub.trigger("a", "digest", every("2m")), "trigger 'a' is declared twice"),
        (lambda: hub.agent(timeout="1m")(digest), "agent 'digest' is declared twice"),
        (lambda: hub.command("digest", ["x"]), "agent 'digest' is declared twice"),
        (lambda: hub.agent(name="backup")(digest), "agent 'backup' is declared twice"),
        (lambda: hub.trigger("b", refusal), "trigger 'b': refusal is no agent of this hub: put @hub.agent"),
        (lambda: hub.trigger("b", digest), "trigger 'b': the function is the agents digest, again: say which"),
        (lambda: hub.trigger("b c", "digest"), "trigger name 'b c': no spaces"),
        (lambda: hub.trigger("b", "digest", priority=10), "trigger 'b': priority must be 0–9"),
        (lambda: hub.trigger("b", "digest", input=object()), "trigger 'b': input is of type object"),
        (lambda: hub.trigger("b", "digest", input="\0"), "trigger 'b': input has a NUL"),
        (lambda: hub.trigger("b", "digest", grace="soon"), "trigger 'b': grace: 'soon': must be a number"),
        (lambda: wrong.trigger("b", "digest", "* * * * *"), "trigger 'b': schedule must be cron(…)"),
        (lambda: wrong.trigger("b", "digest", overlap="skp"), "'skp': must be one of skip, queue_one"),
        (lambda: wrong.trigger("b", "digest", catchup="all"), "catchup: is unknown; did you mean 'catch_up'?"),
        (lambda: wrong.agent(timeuot="1m")(digest), "timeuot: is unknown; did you mean 'timeout'?"),
        (lambda: wrong.agent(concurrency="4")(digest), "concurrency: '4': must be a whole number"),
        (lambda: wrong.agent(retries=True)(digest), "retries: True: must be a whole number"),
        (lambda: wrong.agent(retry_on=int)(digest), "retry_on: <class 'int'>: must be an exception class"),
        (lambda: wrong.agent(timeout=0)(digest), "agent 'digest': timeout must be longer than 0 s"),
        (lambda: wrong.command("c", "pg_dump shop"), "agent 'c': command must be a list of texts"),
        (lambda: hub.agent(lambda run: 1), "has no name to call the agent by: give name="),
        (lambda: cron("99 * * * *"), "minute '99'"),
    ):
        assert said in refusal(declare)
    assert len(hub.build().agents) == 3
    assert len(hub.build().triggers) == 1


def test_an_input_over_the_bound_is_refused() -> None:
    hub = Hub()
    with pytest.raises(PayloadTooLarge, match="trigger 'b': input is 1,048,578 bytes"):
        hub.trigger("b", "digest", input="x" * 1024 * 1024)


def test_building_tells_all_unknown_agents_at_once() -> None:
    hub = Hub()
    hub.agent(digest)
    hub.trigger("a", "digset", at("2026-03-01T09:00:00Z"))
    hub.trigger("b", "gone")
    hub.trigger("c", "digest")
    with pytest.raises(InvalidApp) as caught:
        hub.build("app.py")
    assert caught.value.faults == (
        "app.py: trigger 'a': no agent 'digset'; declared: digest; did you mean 'digest'?",
        "app.py: trigger 'b': no agent 'gone'; declared: digest",
    )


def test_each_kind_of_agent_has_its_executor() -> None:
    hub = Hub()
    assert executors_of(hub.build(), 4) == ()
    hub.agent(digest)
    assert [type(one) for one in executors_of(hub.build(), 4)] == [InProcess]
    hub.command("backup", ["pg_dump"])
    both = executors_of(hub.build(), 4)
    assert [(type(one), one.name, list(one.agents), one.slots) for one in both] == [
        (InProcess, "inprocess", ["digest"], 4),
        (Command, "command", ["backup"], 4),
    ]


def test_an_event_rule_stands_in_the_schedules_place_and_drops_nothing_by_itself() -> None:
    hub = Hub()
    hub.agent(digest)
    rule = on_event("push", where="data.n", debounce="5s")
    hub.trigger("on-push", digest, rule)
    hub.trigger("on-push-too", digest, rule, overlap="skip")
    one, other = hub.build().triggers
    assert (one.schedule, one.event, one.overlap) == (None, rule, Overlap.QUEUE_ALL)
    assert other.overlap is Overlap.SKIP
    assert "on_event(…, input=…)" in refusal(lambda: hub.trigger("x", digest, rule, input=1))
    assert "on_event(…)" in refusal(lambda: hub.trigger("x", digest, cast(Any, "push")))
