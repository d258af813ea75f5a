"""Who can reach the API, and with what key, of hubs that are processes."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.conftest import Answer, Hub

Start = Callable[..., Hub]
Tocsin = Callable[..., Answer]
EVERYWHERE = "0.0.0.0:0"


def asked(url: str, path: str, *, key: str = "", body: Any = None, **headers: str) -> tuple[int, Any]:
    """(status, answer); asked on this host, of an address that others could have used."""
    given = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {}), **headers}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url.replace("0.0.0.0", "127.0.0.1") + path, data, given)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_serve_beyond_this_host_wants_a_key_to_exist(hub: Start, tocsin: Tocsin, app: Path, dsn: str) -> None:
    settings = {"TOCSIN_DATABASE_URL": dsn, "TOCSIN_HTTP_BIND": EVERYWHERE}
    refused = hub("serve", **settings)
    assert refused.end() == 1
    (line,) = refused.said().splitlines()
    assert line.startswith(f"tocsin: TOCSIN_HTTP_BIND={EVERYWHERE} can be reached from other hosts")
    assert "tocsin key create NAME --scope admin" in line
    # A key of an agent process opens nothing here, and so is none.
    assert tocsin("key", "create", "worker", "--agent", "*", TOCSIN_DATABASE_URL=dsn).code == 0
    assert hub("serve", **settings).end() == 1
    key = tocsin("key", "create", "root", "--scope", "admin", TOCSIN_DATABASE_URL=dsn).out.strip()
    served = hub("serve", **settings)
    assert asked(served.url, "/v1/triggers")[0] == 401
    assert asked(served.url, "/v1/triggers", key=key) == (200, {"items": [], "next_cursor": None})
    assert asked(served.url, "/healthz")[0] == 200


def test_up_beyond_this_host_makes_the_first_key_and_shows_it_once(
    hub: Start, tocsin: Tocsin, app: Path, dsn: str
) -> None:
    settings = {"TOCSIN_DATABASE_URL": dsn, "TOCSIN_HTTP_BIND": EVERYWHERE}
    first = hub("up", str(app), **settings)
    url = first.url
    assert asked(url, "/v1/triggers")[0] == 401
    first.send()
    assert first.end() == 0
    (line,) = first.said().splitlines()
    found = re.search(r"tocsin_[\w-]{43}$", line)
    assert found is not None
    assert "'first' of scope admin" in line
    key = found[0]
    assert key not in json.dumps(first.events)
    second = hub("up", str(app), **settings)
    status, run = asked(second.url, "/v1/triggers/by-hand/fire", key=key, body={"input": {"name": "you"}})
    assert (status, run["created"]) == (201, True)
    second.wait_for("run.settled", run_id=run["id"], state="succeeded")
    told = asked(second.url, f"/v1/runs/{run['id']}", key=key)[1]
    assert (told["output"], told["transitions"][0]["actor"]) == ({"hello": "you"}, "key:first")
    second.send()
    assert second.end() == 0
    assert second.said() == ""


def test_on_this_host_no_key_is_made_and_none_is_needed(hub: Start, tocsin: Tocsin, app: Path, dsn: str) -> None:
    started = hub("up", str(app), TOCSIN_DATABASE_URL=dsn)
    url = started.url
    assert len(asked(url, "/v1/triggers")[1]["items"]) == 6
    assert asked(url, "/v1/triggers", Origin="https://evil.example")[0] == 403
    assert tocsin("key", "list", "--json", TOCSIN_DATABASE_URL=dsn).objects == []
    assert started.said() == ""


def test_keys_on_the_command_line(tocsin: Tocsin, dsn: str) -> None:
    settings = {"TOCSIN_DATABASE_URL": dsn}
    made = tocsin("key", "create", "ci", "-s", "operate", "-s", "emit", "--expires", "90d", "--json", **settings)
    (row,) = made.objects
    assert (row["scopes"], row["agents"], row["state"]) == (["operate", "emit"], [], "valid")
    assert row["created_by"].startswith("cli:")
    worker = tocsin("key", "create", "worker", "--agent", "greet", **settings)
    assert re.fullmatch(r"tocsin_[\w-]{43}\n", worker.out)
    listed = tocsin("key", "list", **settings).out
    assert "operate, emit" in listed
    assert "agent" in listed
    assert worker.out.strip() not in listed
    assert tocsin("key", "revoke", "ci", **settings).out == "key ci is revoked\n"
    assert [row["state"] for row in tocsin("key", "list", "--json", **settings).objects] == ["revoked", "valid"]
    for words, told in (
        (["x"], "say what it is for"),
        (["x", "-s", "root"], "must be one of read, operate, admin, emit, agent"),
        (["x", "-s", "read", "-a", "greet"], "scope agent and the agents go together"),
        (["x", "-s", "read", "--expires", "soon"], "or a length of time such as 90d"),
        (["x", "-s", "read", "--expires", "2020-01-01"], "expired already"),
        (["x", "-s", "read", "--expires", "99999999d"], "--expires"),
        (["two words", "-s", "read"], "two words"),
    ):
        refused = tocsin("key", "create", *words, **settings)
        assert (refused.code, refused.out) == (2, ""), words
        assert told in refused.lines[-1], words
    assert tocsin("key", "create", "worker", "-s", "read", **settings).code == 1
