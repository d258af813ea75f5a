"""What calls a trigger, in the forms in which it is written and read back: a schedule, or an event rule."""

from typing import Annotated, Any, Final

from pydantic import WithJsonSchema

from tocsin.domain.errors import BadInput
from tocsin.domain.event import MAX_ATTRIBUTE
from tocsin.domain.event_rule import DEFAULT_BATCH, MAX_BATCH, MAX_DEPTH, MOST_DEPTH, SHORTEST, EventRule
from tocsin.domain.expression import MAX_LENGTH
from tocsin.domain.hook import Encoding, Hook, Scheme
from tocsin.edges.http.problems import Problem

EXAMPLE_SCHEDULE: Final[Any] = {"rules": [{"cron": "0 9 * * mon-fri", "tz": "Europe/Paris"}]}
EXAMPLE_EVENT: Final[Any] = {
    "type": "com.github.pull_request",
    "source": "https://github.com/acme/*",
    "where": "data.action == 'opened'",
    "input": "data.pull_request",
    "debounce_seconds": 30,
    "per": "subject",
}

ScheduleForm = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "Rules, exceptions and bounds; see the guide to schedules.",
            "properties": {
                "rules": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 100,
                    "items": {
                        "type": "object",
                        "description": "One of cron (with tz, gap, fold), every_seconds (with after_completion), at.",
                        "properties": {
                            "cron": {"type": "string"},
                            "tz": {"type": "string"},
                            "gap": {"enum": ["shift", "skip"]},
                            "fold": {"enum": ["first", "last", "both"]},
                            "every_seconds": {"type": "number", "minimum": 1},
                            "after_completion": {"type": "boolean"},
                            "at": {"type": "array", "items": {"type": "string", "format": "date-time"}},
                        },
                        "additionalProperties": False,
                    },
                },
                "except": {"type": "array", "maxItems": 1_000, "items": {"type": "object"}},
                "start_at": {"type": ["string", "null"], "format": "date-time"},
                "end_at": {"type": ["string", "null"], "format": "date-time"},
                "max_occurrences": {"type": ["integer", "null"], "minimum": 1, "maximum": 100_000},
                "jitter_seconds": {"type": "number", "minimum": 0},
            },
            "required": ["rules"],
            "additionalProperties": False,
            "examples": [EXAMPLE_SCHEDULE],
        }
    ),
]


def _pattern(words: str, example: str, *, is_optional: bool = True) -> dict[str, Any]:
    kind = ["string", "null"] if is_optional else "string"
    return {"type": kind, "minLength": 1, "maxLength": MAX_ATTRIBUTE, "description": words, "examples": [example]}


def _expression(words: str, example: str) -> dict[str, Any]:
    return {
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": MAX_LENGTH,
        "description": f"JMESPath, asked of the whole event: {words}",
        "examples": [example],
    }


def _window(words: str) -> dict[str, Any]:
    return {"type": "number", "minimum": SHORTEST.total_seconds(), "description": words}


EventForm = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "Which events call it, what its run is given, and how many make one run; see the guide to "
            "events. At most one of debounce_seconds, throttle_seconds and batch_seconds.",
            "properties": {
                "type": _pattern(
                    "The event's type; * stands for any text, ? for a letter.", "com.github.push", is_optional=False
                ),
                "source": _pattern("Where it comes from, with * and ?. Any, when left out.", "https://github.com/*"),
                "subject": _pattern("What it is about, with * and ?. Any, when left out.", "refs/heads/*"),
                "where": _expression("called when the answer is neither false nor empty.", "data.n > `1`"),
                "input": _expression("what of it the run is given; all of it, when left out.", "data.repository"),
                "debounce_seconds": _window(
                    "One run, with the last event, once none has come for so long; at the latest after ten times that."
                ),
                "throttle_seconds": _window(
                    "At most one run in so long: the first at once, then one with the last event of the time between."
                ),
                "batch_seconds": _window("One run for all events of so long; its input is the list of theirs."),
                "batch_size": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_BATCH,
                    "default": DEFAULT_BATCH,
                    "description": "So many close a batch at once.",
                },
                "per": _expression("events with the same answer share a window.", "subject"),
                "max_depth": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MOST_DEPTH,
                    "default": MAX_DEPTH,
                    "description": "Runs that may stand in one chain of events.",
                },
            },
            "required": ["type"],
            "additionalProperties": False,
            "examples": [EXAMPLE_EVENT],
        }
    ),
]


EXAMPLE_HOOK: Final[Any] = {"scheme": "github", "secret": "GITHUB_WEBHOOK_SECRET"}


def _header(words: str, example: str) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": 100, "description": words, "examples": [example]}


HookForm = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "Who may call it at /hooks/NAME; see the guide to webhooks. What follows tolerance_seconds "
            "is for hmac.",
            "properties": {
                "scheme": {"enum": list(Scheme), "description": "none: whoever reaches the port."},
                "secret": {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
                    ],
                    "description": "The name of the variable in the hub's environment that has it; two while it is "
                    "exchanged. Never the secret.",
                },
                "tolerance_seconds": {"type": "number", "minimum": 1, "maximum": 86_400, "default": 300},
                "header": _header("Where the signature stands.", "x-signature"),
                "prefix": {"type": "string", "maxLength": 200, "description": "What stands before it there."},
                "encoding": {"enum": list(Encoding), "default": "hex"},
                "signed": {
                    "type": "string",
                    "maxLength": 200,
                    "description": "What it covers; {body} alone, or {timestamp}.{body} with a timestamp_header.",
                    "examples": ["v0:{timestamp}:{body}"],
                },
                "timestamp_header": _header("Where the seconds since 1970 stand.", "x-timestamp"),
                "id_header": _header("Where the call's id stands.", "x-delivery"),
                "type_header": _header("Where its type stands.", "x-event"),
            },
            "required": ["scheme"],
            "additionalProperties": False,
            "examples": [EXAMPLE_HOOK],
        }
    ),
]


def read_hook(form: dict[str, Any]) -> Hook:
    """Raises: Problem."""
    try:
        return Hook.from_json(form)
    except BadInput as fault:
        raise Problem(422, fault.code, str(fault), field="hook") from None


def read_event(form: dict[str, Any]) -> EventRule:
    """Raises: Problem."""
    try:
        return EventRule.from_json(form)
    except BadInput as fault:
        raise Problem(422, fault.code, str(fault), field="event") from None
