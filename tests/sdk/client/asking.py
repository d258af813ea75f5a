"""Somebody who asks, a hub that answers as it is told, and a clock on which no time is lost."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import msgspec

from tocsin.clock import Timer
from tocsin.sdk.client.address import Address
from tocsin.sdk.client.asking import Asking

Step = httpx2.Response | Exception
Hub = Callable[[httpx2.Request], Any]


class Still:
    """A clock that goes on only while somebody sleeps. slept: for how long, each time."""

    def __init__(self) -> None:
        self.at = 1_000.0
        self.slept: list[float] = []

    def now(self) -> None:
        return None

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        raise AssertionError


class Scripted:
    """Answers with one step after the other. asked: what came."""

    def __init__(self, *steps: Step) -> None:
        self._steps: Iterator[Step] = iter(steps)
        self.asked: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        step = next(self._steps)
        if isinstance(step, Exception):
            raise step
        return step

    @property
    def keys(self) -> list[str | None]:
        return [request.headers.get("idempotency-key") for request in self.asked]


def said(value: Any, status: int = 200, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx2.Response(status, headers={"content-type": "application/json", **named}, content=_json(value))


def problem(
    status: int, code: str, detail: str = "it says no", *, about: Any = None, **headers: str
) -> httpx2.Response:
    form = {"type": f"urn:tocsin:problem:{code}", "title": "No", "status": status, "code": code, "detail": detail}
    answer = said(form | ({"about": about} if about is not None else {}), status, **headers)
    answer.headers["content-type"] = "application/problem+json"
    return answer


def asking(hub: Hub, clock: Still, *, timeout: float = 30.0, draw: float = 1.0, **more: Any) -> Asking:
    """draw: of each pause, how much of the most that it may be."""
    return Asking(
        address=Address(url="http://hub.test"),
        http=httpx2.AsyncClient(transport=httpx2.MockTransport(hub)),
        clock=clock,
        timeout=timeout,
        draw=lambda: draw,
        **more,
    )


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
