"""Rules and bounds of a schedule, as a trigger's table in TOML has them."""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any, Final

from tocsin.domain import schedule_json
from tocsin.domain.duration import parse_duration
from tocsin.domain.errors import BadInput, InvalidSchedule
from tocsin.domain.rules import At, Cron, Every, Except, Rule, read_excepts

Table = Mapping[str, Any]


def rule_of(kind: str, one: Any, table: Table) -> Rule:
    """kind: cron, every or at; one: what is written for it; table: the trigger's.

    Raises: InvalidSchedule.
    """
    match kind:
        case "cron":
            return Cron(one, table.get("tz", "UTC"), table.get("gap", "shift"), table.get("fold", "first"))
        case "every":
            try:
                return Every(_length("every", one), table.get("after_completion", False))
            except InvalidSchedule as fault:
                # The value as it was written reads better than the length that was understood.
                raise InvalidSchedule("every", one, fault.reason) if fault.field == "every" else fault from None
        case _:
            moment = _instant("at", one)
            assert moment is not None
            return At((moment,))


def _instant(field: str, value: object) -> datetime | None:
    return value if value is None or isinstance(value, datetime) else schedule_json.instant(field, value)


def _length(field: str, value: Any) -> Any:
    try:
        return parse_duration(value)
    except BadInput as fault:
        reason = str(fault).removeprefix(f"duration {value!r}: ")
        raise InvalidSchedule(field, value, reason) from None


def _excepts(table: Table) -> tuple[Except, ...]:
    """Dates, texts as in Python, and tables {from, to}."""
    given = table.get("except", [])
    several = given if isinstance(given, list) else [given]
    return read_excepts([_except(one) for one in several], table.get("tz", "UTC"))


def _except(one: Any) -> Any:
    if not isinstance(one, dict):
        return one
    first, last = one.get("from"), one.get("to")
    days = all(isinstance(day, date) and not isinstance(day, datetime) for day in (first, last))
    if set(one) != {"from", "to"} or not days:
        raise InvalidSchedule("except", one, "must be a date, a cron text, or {from = date, to = date}")
    return first, last


BOUNDS: Final[Mapping[str, Callable[[Table], Any]]] = {
    "except": _excepts,
    "start_at": lambda table: _instant("start_at", table.get("start_at")),
    "end_at": lambda table: _instant("end_at", table.get("end_at")),
    "jitter": lambda table: _length("jitter", table.get("jitter", 0)),
}
"""Of a schedule's bounds, how each is read from a trigger's table."""
