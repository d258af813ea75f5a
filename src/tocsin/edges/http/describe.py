"""The API's description, OpenAPI 3.1: what the framework knows, and beside it scopes, keys and refusals."""

from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from tocsin.edges.http.cloud_event_form import CLOUD_EVENT
from tocsin.edges.http.operation import OWN_BODY, OWN_KEY, SCOPE
from tocsin.edges.http.problems import MEDIA
from tocsin.edges.http.routes import REFUSALS
from tocsin.edges.http.told import ProblemForm, StreamedTransition
from tocsin.edges.http.told_events import HookAnswer

ABOUT: Final = """\
Every operation of a hub; each replica answers all of them alike. Instants are ISO 8601 with an offset, and told in
UTC; lengths of time are told in seconds.

A refusal is `application/problem+json` with a stable `code`. Listings go on with `cursor`, the `next_cursor` of the
page before. A POST may carry an `Idempotency-Key`: the same request with the same key is done once, and answered alike
for a day.

A key is asked for as soon as there is one: `Authorization: Bearer KEY`. Each operation names the scope that it needs.
"""

KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `tocsin key create`. read: look at everything. operate: also fire, pause, resume, cancel, "
    "retry. admin: also write triggers and keys. emit: send events. While there is no key, this host needs none.",
}

ONCE: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request with the same key is done once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "7c1f9e0a-deploy-42",
}

WORDS: Final[dict[int, str]] = {
    400: "The body is no JSON, or is nested too deeply.",
    401: "A key is asked for, or the key opens nothing; a hook's call is not signed as it asks.",
    403: "The key has another scope, or the request comes from elsewhere.",
    404: "There is nothing under that name.",
    409: "It cannot be done as things stand.",
    412: "The version moved on.",
    413: "The body is too large.",
    415: "The body is no JSON, or is compressed.",
    422: "What was written is wrong; nothing was changed. `field` names what is at fault, where it can.",
    428: "If-Match is missing.",
    429: "Too many keys that open nothing, or calls that are not signed as asked.",
    500: "Something went wrong here.",
    503: "The database cannot be asked just now, or as many streams are open, or as much waits, as may.",
}


def described(app: FastAPI) -> dict[str, Any]:
    """The whole description."""
    found = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = ProblemForm.model_json_schema()
    schemas[StreamedTransition.__name__] = StreamedTransition.model_json_schema()
    parts["securitySchemes"] = {"key": KEY}
    parts["responses"] = {str(status): _refusal(words) for status, words in WORDS.items()}
    for method, operation in _operations(found):
        _complete(method, operation)
    schemas["CloudEvent"] = CLOUD_EVENT
    schemas["HookAnswer"] = HookAnswer.model_json_schema()
    found["paths"] |= _HOOKS | _HEALTH
    return found


def _operations(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in found["paths"].values():
        yield from path.items()


def _complete(method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    for status in operation.pop(REFUSALS):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    operation.pop(OWN_KEY, None)
    operation.pop(OWN_BODY, None)
    operation["description"] = "\n\n".join(
        part for part in (operation.get("description", ""), f"Scope: `{operation[SCOPE]}`.") if part
    )
    if method == "post":
        operation.setdefault("parameters", []).append(ONCE)


def _refusal(words: str) -> dict[str, Any]:
    return {"description": words, "content": {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _health(summary: str, statuses: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    responses = {
        status: {
            "description": words,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {name: {"type": "string"} for name in example},
                        "required": sorted(example),
                    },
                    "example": example,
                }
            },
        }
        for status, (words, example) in statuses.items()
    }
    return {"get": {"tags": ["health"], "summary": summary, "security": [], "responses": responses}}


_HOOKS: Final = {
    "/hooks/{trigger}": {
        "post": {
            "tags": ["hooks"],
            "operationId": "call_hook",
            "summary": "Call a trigger, as somebody else's webhook",
            "description": "JSON or a form, signed as the trigger's hook asks. When this answers, the call is an event "
            "that is committed. Its id is taken once: a call that comes again is answered with `duplicate`, and "
            "nothing is done twice. A hook that is not there is refused as one that is called wrongly.",
            "security": [],
            "parameters": [
                {
                    "name": "trigger",
                    "in": "path",
                    "required": True,
                    "description": "The trigger's name.",
                    "schema": {"type": "string", "minLength": 1},
                    "example": "review-pull",
                }
            ],
            "requestBody": {
                "content": {
                    "application/json": {"schema": {}, "example": {"type": "invoice.paid", "data": {"id": 42}}},
                    "application/x-www-form-urlencoded": {"schema": {"type": "object"}, "example": {"text": "hello"}},
                }
            },
            "responses": {
                "200": {
                    "description": "It is committed.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/HookAnswer"}}},
                },
                **{
                    str(status): {"$ref": f"#/components/responses/{status}"}
                    for status in (400, 401, 403, 413, 415, 429, 500, 503)
                },
            },
        }
    }
}

_HEALTH: Final = {
    "/healthz": _health("Whether the process lives", {"200": ("It does.", {"status": "alive", "version": "0.1.0"})}),
    "/readyz": _health(
        "Whether it takes work",
        {
            "200": ("It does.", {"status": "ready"}),
            "503": ("It drains, starts, or a loop keeps failing.", {"status": "unready", "reason": "draining"}),
        },
    ),
}
