"""Requests, and asking again where that can do nothing twice.

Of a request whose answer did not come nobody knows whether it was done. It is asked again if it changes nothing (GET),
if done twice is done once (DELETE), or if it carries an Idempotency-Key (POST). Any other is asked again only where it
was surely not done: no connection came about, or the hub has put it off; and a POST without a key never.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from itertools import count
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import httpx2
import msgspec

from tocsin.clock import Clock
from tocsin.domain.errors import BadInput, HubUnavailable, NotFound, TocsinError
from tocsin.sdk.client.address import Address
from tocsin.sdk.client.problems import error_of

T = TypeVar("T")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
CONNECT_WITHIN: Final = 5.0
"""Seconds for a connection to come about."""

PUT_OFF: Final = frozenset({"throttled", "starting", "contended", "in_progress"})
"""Codes that say that nothing was done."""

LATER: Final = frozenset({429, 502, 503, 504})
"""Statuses that may be another one in a while."""

NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Repeat(Enum):
    """When a request is asked again."""

    ALWAYS = "always"
    NOT_DONE = "not done"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """path: its parts, not yet quoted. body: None where there is none; media: of which type it is. key: its
    Idempotency-Key.
    """

    method: str
    path: Sequence[str]
    query: Mapping[str, Any] | None = None
    body: Any = None
    media: str = "application/json"
    key: str | None = None
    if_match: str | None = None
    last_event_id: str | None = None

    @property
    def repeat(self) -> Repeat:
        match self.method:
            case "GET" | "DELETE":
                return Repeat.ALWAYS
            case "POST":
                return Repeat.NEVER if self.key is None else Repeat.ALWAYS
            case _:
                return Repeat.NOT_DONE

    @property
    def target(self) -> str:
        """The path and the query. Raises: NotFound, for a part that can be nobody's name and would lead elsewhere."""
        for part in self.path:
            if part.strip(".") == "":
                raise NotFound(self.path[0].removesuffix("s"), part)
        query = urlencode(self._pairs())
        return "/v1/" + "/".join(quote(part, safe="") for part in self.path) + (f"?{query}" if query else "")

    def headers(self) -> dict[str, str]:
        """Raises: BadInput, for a key that no header can have."""
        if self.key is not None and not self.key.isascii():
            raise BadInput(f"key {self.key[:40]!r}: over HTTP it must be ASCII")
        named = {"idempotency-key": self.key, "if-match": self.if_match, "last-event-id": self.last_event_id}
        return {name: value for name, value in named.items() if value is not None}

    def _pairs(self) -> list[tuple[str, str]]:
        """Of the query; a list says a name several times, and None not at all."""
        pairs = []
        for name, value in (self.query or {}).items():
            values = value if isinstance(value, list | tuple) else [value]
            pairs += [(name, _text(one)) for one in values if one is not None]
        return pairs


class _Failed(Exception):
    """A try that failed. undone: surely nothing was done; passing: another may do better, ``after`` seconds later."""

    def __init__(self, error: TocsinError, *, undone: bool = False, passing: bool = True, after: float = 0) -> None:
        super().__init__(str(error))
        self.error = error
        self.undone = undone
        self.passing = passing
        self.after = after

    def allows(self, repeat: Repeat) -> bool:
        match repeat:
            case Repeat.ALWAYS:
                return self.passing
            case Repeat.NOT_DONE:
                return self.passing and self.undone
            case Repeat.NEVER:
                return False


class Asking:
    """timeout: seconds for an operation with all its tries. again: told why something is asked again, each time.
    draw: a number from 0 to 1, for the jitter.
    """

    def __init__(
        self,
        *,
        address: Address,
        http: httpx2.AsyncClient,
        clock: Clock,
        timeout: float,
        again: Callable[[TocsinError], None] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.address = address
        self.clock = clock
        self.timeout = timeout
        self._http = http
        self._again = again
        self._draw = draw

    async def ask(self, request: Request, told: type[T]) -> T:
        """The answer, once it has come.

        Raises: what the refusal is; HubUnavailable, when no answer came in time.
        """
        until = self.clock.monotonic() + self.timeout
        for tries in count():
            try:
                return _read(await self._tried(request, until), told)
            except _Failed as failed:
                pause = max(failed.after, self.pause(tries))
                if not failed.allows(request.repeat) or self.clock.monotonic() + pause >= until:
                    raise failed.error from failed.__cause__
                if self._again is not None:
                    self._again(failed.error)
            await self.clock.sleep(pause)
        raise AssertionError  # a count has no end

    def stream(self, request: Request, *, silence: float) -> AbstractAsyncContextManager[httpx2.Response]:
        """A context with an answer whose body comes bit by bit. silence: seconds after which it is given up."""
        return self._http.stream(
            request.method,
            self.address.url + request.target,
            headers={**request.headers(), "accept": "text/event-stream"},
            timeout=httpx2.Timeout(silence, connect=CONNECT_WITHIN),
        )

    def pause(self, tries: int) -> float:
        """Seconds until the next try. Source: full jitter, Brooker, "Exponential Backoff And Jitter" (2015)."""
        return self._draw() * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries, 16))

    async def _tried(self, request: Request, until: float) -> httpx2.Response:
        """An answer of less than 300. Raises: _Failed."""
        try:
            async with asyncio.timeout(max(0.0, until - self.clock.monotonic())):
                answer = await self._http.request(
                    request.method,
                    self.address.url + request.target,
                    content=b"" if request.body is None else msgspec.json.encode(request.body),
                    headers=request.headers() | ({} if request.body is None else {"content-type": request.media}),
                    timeout=httpx2.Timeout(None, connect=CONNECT_WITHIN),
                )
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL) as fault:
            raise _Failed(
                self.unreached(fault), undone=isinstance(fault, NOT_SENT), passing=not is_final(fault)
            ) from fault
        if answer.status_code < 300:
            return answer
        error = error_of(answer)
        put_off = error.code in PUT_OFF
        raise _Failed(
            error, undone=put_off, passing=put_off or answer.status_code in LATER, after=retry_after(answer.headers)
        )

    def unreached(self, fault: Exception) -> HubUnavailable:
        """No answer came, and why."""
        if isinstance(fault, TimeoutError | httpx2.TimeoutException):
            reason = "it takes too long"
        else:
            reason = " ".join(str(fault).split()) or type(fault).__name__
        return HubUnavailable(f"no answer from {self.address.url}: {reason}; check TOCSIN_URL, and that the hub runs")


def is_final(fault: BaseException) -> bool:
    """Whether it would be the same at every other try: a URL that is none, a certificate that is not trusted."""
    if isinstance(fault, httpx2.InvalidURL | httpx2.UnsupportedProtocol | ssl.SSLCertVerificationError):
        return True
    cause = fault.__cause__ or fault.__context__
    return cause is not None and is_final(cause)


def _read(answer: httpx2.Response, told: type[T]) -> T:
    """Raises: HubUnavailable, for what no hub would say."""
    try:
        return msgspec.json.decode(answer.content, type=told)
    except (msgspec.DecodeError, RecursionError) as fault:
        raise HubUnavailable(f"{answer.url} does not answer as a hub does ({fault}): check TOCSIN_URL") from fault


def retry_after(headers: httpx2.Headers) -> float:
    """Seconds; a date is counted from the answer's own. Source: RFC 9110, 10.2.3."""
    text = headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])).total_seconds())
    except (ValueError, KeyError, TypeError):
        return 0.0


def _text(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.isoformat()
        case _:
            return str(value)
