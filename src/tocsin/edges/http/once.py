"""A request that comes again under its own key is answered as it was the first time, and done once.

Before an operation its key is taken, after it the answer is kept beside the key for a day. What was refused is not
kept: nothing was done, and it may be asked again. If the process dies in between, the key is free after a minute;
operations that would then be done twice (a backfill, a retry) take the key along, and have it unique for ever.
"""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from tocsin.domain.errors import BadInput, StoreError, TocsinError
from tocsin.edges.http.problems import RETRY_AFTER, Problem
from tocsin.engine.firing import checked_key
from tocsin.store.answers import Answers, Former
from tocsin.telemetry import Log

HEADER: Final = "idempotency-key"
REPLAYED: Final = "idempotent-replayed"
KEPT_HEADERS: Final = ("content-type", "etag", "location")


def key_of(request: Request) -> str | None:
    """Raises: Problem, for a key that is no key."""
    given = request.headers.get(HEADER)
    if given is None:
        return None
    try:
        return checked_key(given.strip())
    except BadInput as error:
        raise Problem(422, error.code, str(error), field="Idempotency-Key") from None


class Once:
    def __init__(self, *, answers: Answers, log: Log) -> None:
        self._answers = answers
        self._log = log

    async def answered(
        self, request: Request, actor: str, key: str, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """The first request's answer, or this one's, if it is the first."""
        fingerprint = await _fingerprint(request)
        former = await self._answers.begin(actor, key, fingerprint)
        if former is not None:
            return _again(former, fingerprint)
        try:
            response = await answer(request)
        except (Problem, TocsinError, RequestValidationError):
            await self._drop(actor, key)
            raise
        if response.status_code >= 300:
            await self._drop(actor, key)
        else:
            await self._keep(actor, key, response)
        return response

    async def _keep(self, actor: str, key: str, response: Response) -> None:
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        try:
            await self._answers.keep(
                actor, key, status=response.status_code, headers=headers, body=bytes(response.body)
            )
        except StoreError as error:
            # It is done, and that counts: whoever asks again within a minute is told to wait.
            self._log.warning("answer.unkept", error=str(error))

    async def _drop(self, actor: str, key: str) -> None:
        try:
            await self._answers.drop(actor, key)
        except StoreError as error:
            self._log.warning("answer.unkept", error=str(error))


async def _fingerprint(request: Request) -> bytes:
    target = f"{request.method} {request.url.path}?{request.url.query}\n"
    return sha256(target.encode() + await request.body()).digest()


def _again(former: Former, fingerprint: bytes) -> Response:
    """Raises: Problem."""
    if former.fingerprint != fingerprint:
        raise Problem(
            422, "key_reused", "another request was made with this key: take a new one", field="Idempotency-Key"
        )
    if former.status is None:
        raise Problem(409, "in_progress", "the first request with this key is still under way", headers=RETRY_AFTER)
    return Response(former.body, former.status, {**former.headers, REPLAYED: "true"})
