"""What lies at the ends: of the calendar, of what numbers the store has, of what a name may be."""

from typing import Any

import pytest

from tests.edges.http.client import Client
from tocsin.edges.http.operation import to_cursor

pytestmark = pytest.mark.anyio

ID = "0199f0c2-0000-7000-8000-000000000000"
LAST = "9999-12-31T23:59:59.999999Z"
STRUCTURED = {"content-type": "application/cloudevents+json"}
TIMED = ("/v1/instances", "/v1/replicas", "/v1/decisions")


@pytest.mark.parametrize(
    ("path", "position"),
    [
        *((path, (text,)) for path in ("/v1/triggers", "/v1/agents") for text in ("\0", "a\0b")),
        *((path, (number,)) for path in ("/v1/events", "/v1/audit") for number in (2**63, -(2**63) - 1, 10**30)),
        *(
            (path, (at, ID))
            for path in TIMED
            for at in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00")
        ),
        ("/v1/decisions", ("2026-01-01T00:00:00Z", "a\0")),
    ],
)
async def test_a_cursor_that_was_forged_is_refused(client: Client, path: str, position: tuple[Any, ...]) -> None:
    answer = await client.get(path, cursor=to_cursor(*position))
    assert (answer.status, answer.code, answer.json["field"]) == (422, "bad_input", "cursor")


@pytest.mark.parametrize("path", ["/v1/events", "/v1/audit"])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
async def test_a_number_that_no_record_has_is_refused(client: Client, path: str, number: int) -> None:
    answer = await client.get(path, before=number)
    assert (answer.status, answer.json["field"]) == (422, "before")
    assert (await client.get(path, before=2**63 - 1)).status == 200
