"""``tocsin emit``, ``tocsin event`` and hooks on the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Answer

Tocsin = Callable[..., Answer]

APP = """
from tocsin import Hub, on_event, webhook

hub = Hub()

@hub.agent
def review() -> None: ...

hub.trigger("review", review, on_event("pull_request"), hook=webhook("github", secret="GITHUB_SECRET"))
hub.trigger("open", review, hook=webhook("none"))
hub.trigger("orders", review, on_event("order.*", where="data.n > `1`", input="data.n"))
"""


@pytest.fixture
def declared(tocsin: Tocsin, place: Path, dsn: str) -> Tocsin:
    def run(*words: str, stdin: str = "") -> Answer:
        return tocsin(*words, stdin=stdin, TOCSIN_DATABASE_URL=dsn)

    (place / "events.py").write_text(APP)
    synced = run("sync", "events.py")
    assert synced.code == 0, synced.err
    assert synced.lines == ["tocsin: /hooks/open verifies nothing: whoever reaches the port may call open"]
    return run


def test_an_event_is_told_once_and_says_what_it_called(declared: Tocsin) -> None:
    first = declared("emit", "order.paid", "--source", "/shop", "--data", '{"n": 2}', "--dedup-key", "o-1")
    assert first.code == 0
    assert first.out.startswith("event o-1 is taken: 1 run: orders (")
    again = declared("emit", "order.paid", "--source", "/shop", "--data", "@-", "--dedup-key", "o-1", stdin="7")
    assert again.out == "event o-1 from /shop was known: nothing is done twice\n"
    [told] = declared("emit", "order.paid", "--data", '{"n": 0}', "--json").objects
    assert (told["source"], told["accepted"], told["runs"]) == ("cli", True, [])
    runs = declared("run", "list", "--json").objects
    assert [(run["trigger"], run["input"]) for run in runs] == [("orders", 2)]


def test_what_is_no_event_is_refused(declared: Tocsin) -> None:
    for words, said in (
        (("--source", "tocsin"), "the hub's own"),
        (("--source", "/hooks/review"), "a webhook's own"),
        (("--source", "a b"), "no spaces"),
        (("--data", "{"), "--data is not JSON"),
        (("--data", "@nowhere"), "--data @nowhere"),
    ):
        answer = declared("emit", "order.paid", *words)
        assert (answer.code, len(answer.lines)) == (2, 1)
        assert said in answer.err
    assert declared("event", "list").out == "no events\n"


def test_events_are_listed_and_shown_with_what_they_came_to(declared: Tocsin) -> None:
    declared("emit", "order.paid", "--source", "/shop", "--data", '{"n": 2}', "--dedup-key", "a")
    declared("emit", "order.paid", "--source", "/shop", "--data", '{"n": 0}', "--dedup-key", "b", "--subject", "s")
    listed = declared("event", "list").out.splitlines()
    assert [line.split()[-2:] for line in listed[1:]] == [["nothing", "b"], ["queued", "a"]]
    assert [row["id"] for row in declared("event", "list", "--json", "--called").objects] == ["a"]
    assert [row["id"] for row in declared("event", "list", "--json", "--uncalled").objects] == ["b"]
    assert [row["id"] for row in declared("event", "list", "--json", "--trigger", "orders").objects] == ["a"]
    assert declared("event", "list", "--json", "--type", "x").objects == []
    assert declared("event", "list", "--json", "--limit", "1", "--since", "1h").objects[0]["id"] == "b"
    uncalled = declared("event", "show", "2").out
    assert 'data         {"n":0}' in uncalled
    assert "came to      nothing" in uncalled
    assert "orders      not so: data.n > `1`" in uncalled
    assert "open        it has a hook: only calls of /hooks/open are for it" in uncalled
    called = declared("event", "show", "1")
    assert "orders: queued" in called.out
    [run] = declared("run", "list", "--json").objects
    assert f"tocsin run show {run['id']}" in called.out
    assert declared("event", "show", "9").lines == ["tocsin: no event '9'; see `tocsin event list`"]


def test_a_hook_is_given_shown_and_taken_away(declared: Tocsin) -> None:
    added = declared("trigger", "add", "pay", "--agent", "review", "--hook", '{"scheme": "standard", "secret": "PAY"}')
    assert added.out == "pay is added: /hooks/pay, standard, secret PAY: on *\n"
    assert added.err == ""
    assert "hook  " in declared("trigger", "show", "pay").out
    assert "/hooks/pay: on *" in declared("trigger", "list").out
    assert declared("trigger", "why", "pay").out.startswith("It runs when it is called at /hooks/pay (standard")
    bare = declared("trigger", "edit", "pay", "--hook", '{"scheme": "none"}')
    assert "tocsin: /hooks/pay verifies nothing" in bare.err
    gone = declared("trigger", "edit", "pay", "--hook", "{}")
    assert "fired by hand" in gone.out
    for text, said in (("canary{", "must be JSON"), ('{"scheme": "github", "secret": "canary!"}', "not the secret")):
        answer = declared("trigger", "edit", "pay", "--hook", text)
        assert answer.code == 2
        assert said in answer.err
        assert "canary" not in answer.err


def test_a_hook_in_toml_is_the_same_as_in_python(declared: Tocsin, place: Path) -> None:
    (place / "events.toml").write_text(
        '[agents.review]\ncommand = ["true"]\n'
        '[triggers.review]\nagent = "review"\non_event = { type = "pull_request" }\n'
        'hook = { scheme = "github", secret = "GITHUB_SECRET" }\n'
        '[triggers.open]\nagent = "review"\nhook = { scheme = "none" }\n'
    )
    before = {row["name"]: row for row in declared("trigger", "list", "--json").objects}
    assert "2 triggers taken over: open, review" in declared("sync", "events.toml").out
    after = {row["name"]: row for row in declared("trigger", "list", "--json").objects}
    for name in ("review", "open"):
        same = ("event", "hook", "hook_text", "status")
        assert {key: after[name][key] for key in same} == {key: before[name][key] for key in same}
    (place / "bad.toml").write_text(
        '[agents.a]\ncommand = ["true"]\n'
        '[triggers.one]\nagent = "a"\nhook = { scheme = "github" }\n'
        '[triggers.two]\nagent = "a"\nhook = "GITHUB_SECRET"\n'
        '[triggers.three]\nagent = "a"\ncron = "* * * * *"\nhook = { scheme = "none" }\n'
        '[triggers.four]\nagent = "a"\nhook = { scheme = "none" }\ninput = 5\n'
    )
    answer = declared("sync", "bad.toml")
    assert answer.code == 2
    for said in ("one.hook: secret", "two.hook: ", "three.cron: does not go", "four.input: does not go"):
        assert any(said in line for line in answer.lines), (said, answer.lines)
