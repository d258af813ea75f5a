"""A schedule's canonical JSON form, and the strict reading of it.

    {"rules": [{"cron": "0 9 * * *", "tz": "Europe/Paris", "gap": "shift", "fold": "first"},
               {"every_seconds": 60, "after_completion": false},
               {"at": ["2026-03-01T09:00:00Z"]}],
     "except": [{"from": "2026-12-24", "to": "2026-12-26", "tz": "Europe/Paris"},
                {"cron": "* * * * sun"}],
     "start_at": "…", "end_at": "…", "max_occurrences": 10, "jitter_seconds": 30}

What has its default is left out. An unknown key, a wrong type, an instant without an
offset or a number out of bounds is refused, and the refusal names the field.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from tocsin.domain.cron_walk import Fold, Gap
from tocsin.domain.duration import LONGEST
from tocsin.domain.errors import InvalidSchedule
from tocsin.domain.rules import At, Cron, Every, Except, ExceptCron, ExceptDates, Rule, in_utc, read_date

if TYPE_CHECKING:
    from tocsin.domain.schedule import Schedule

_DAY_AND_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_INSTANT = re.compile(rf"{_DAY_AND_TIME}(?:[Zz]|[+-][0-9]{{2}}:?[0-9]{{2}})")
_DEFAULTS = {"tz": "UTC", "gap": "shift", "fold": "first"}
_KEYS = {"rules", "except", "start_at", "end_at", "max_occurrences", "jitter_seconds"}


def dump(schedule: "Schedule") -> dict[str, object]:
    """The canonical form of a schedule."""
    form: dict[str, object] = {"rules": [_dump_rule(rule) for rule in schedule.rules]}
    if schedule.excepts:
        form["except"] = [_dump_except(rule) for rule in schedule.excepts]
    if schedule.start_at is not None:
        form["start_at"] = _dump_instant(schedule.start_at)
    if schedule.end_at is not None:
        form["end_at"] = _dump_instant(schedule.end_at)
    if schedule.max_occurrences is not None:
        form["max_occurrences"] = schedule.max_occurrences
    if schedule.jitter:
        form["jitter_seconds"] = _dump_length(schedule.jitter)
    return form


def load(obj: object) -> dict[str, Any]:
    """The arguments of the schedule that a form describes.

    Raises: InvalidSchedule, naming the field.
    """
    form = _object("schedule", obj, _KEYS)
    if "rules" not in form:
        raise InvalidSchedule("rules", None, "must be given")
    return {
        "rules": tuple(_load_rule(one) for one in _list("rules", form["rules"])),
        "excepts": tuple(_load_except(one) for one in _list("except", form.get("except", []))),
        "start_at": _optional_instant("start_at", form.get("start_at")),
        "end_at": _optional_instant("end_at", form.get("end_at")),
        "max_occurrences": form.get("max_occurrences"),
        "jitter": _length("jitter_seconds", form.get("jitter_seconds", 0)),
    }


def instant(field: str, value: object) -> datetime:
    """The instant of an ISO 8601 text that has an offset, in UTC.

    Raises: InvalidSchedule, naming the field.
    """
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise InvalidSchedule(field, value, "must be ISO 8601 with an offset, such as '2026-03-01T09:00:00Z'")
    try:
        return in_utc(field, datetime.fromisoformat(value))
    except ValueError as fault:
        raise InvalidSchedule(field, value, str(fault)) from fault


def _dump_rule(rule: Rule) -> dict[str, object]:
    match rule:
        case Cron():
            options = {"tz": rule.tz, "gap": rule.gap, "fold": rule.fold}
            return {
                "cron": rule.expr,
                **{key: options[key] for key in options if options[key] != _DEFAULTS[key]},
            }
        case Every():
            form: dict[str, object] = {"every_seconds": _dump_length(rule.period)}
            return form | ({"after_completion": True} if rule.after_completion else {})
        case At():
            return {"at": [_dump_instant(one) for one in rule.instants]}


def _dump_except(rule: Except) -> dict[str, object]:
    tz = {"tz": rule.tz} if rule.tz != "UTC" else {}
    match rule:
        case ExceptCron():
            return {"cron": rule.expr, **tz}
        case ExceptDates():
            return {"from": rule.first.isoformat(), "to": rule.last.isoformat(), **tz}


def _dump_instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _dump_length(value: timedelta) -> int | float:
    seconds = value.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _load_rule(obj: object) -> Rule:
    form = _object("rules", obj, {"cron", "tz", "gap", "fold", "every_seconds", "after_completion", "at"})
    if "cron" in form:
        _only(form, "cron", {"tz", "gap", "fold"})
        gap, fold = cast(Gap, form.get("gap", "shift")), cast(Fold, form.get("fold", "first"))
        return Cron(cast(str, form["cron"]), cast(str, form.get("tz", "UTC")), gap, fold)
    if "every_seconds" in form:
        _only(form, "every_seconds", {"after_completion"})
        return Every(_length("every_seconds", form["every_seconds"]), cast(bool, form.get("after_completion", False)))
    if "at" in form:
        _only(form, "at", set())
        return At(tuple(instant("at", one) for one in _list("at", form["at"])))
    raise InvalidSchedule("rules", obj, "must hold 'cron', 'every_seconds' or 'at'")


def _load_except(obj: object) -> Except:
    form = _object("except", obj, {"cron", "tz", "from", "to"})
    tz = cast(str, form.get("tz", "UTC"))
    if "cron" in form:
        _only(form, "cron", {"tz"})
        return ExceptCron(cast(str, form["cron"]), tz)
    if "from" not in form:
        raise InvalidSchedule("except", obj, "must hold 'cron', or 'from' and 'to'")
    return ExceptDates(read_date(form["from"]), read_date(form.get("to", form["from"])), tz)


def _length(field: str, value: object) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidSchedule(field, value, "must be a number of seconds")
    if not 0 <= value <= LONGEST.total_seconds():
        raise InvalidSchedule(field, value, "must be from 0 s to 100 years")
    return timedelta(seconds=value)


def _optional_instant(field: str, value: object) -> datetime | None:
    return None if value is None else instant(field, value)


def _object(field: str, obj: object, keys: set[str]) -> Mapping[str, object]:
    if not isinstance(obj, Mapping):
        raise InvalidSchedule(field, obj, "must be an object")
    for key in obj:
        if key not in keys:
            raise InvalidSchedule(field, key, f"is unknown; must be one of {', '.join(sorted(keys))}")
    return cast(Mapping[str, object], obj)


def _only(form: Mapping[str, object], kind: str, keys: set[str]) -> None:
    for key in form:
        if key != kind and key not in keys:
            raise InvalidSchedule(key, form[key], f"does not go with {kind!r}")


def _list(field: str, obj: object) -> list[object]:
    if not isinstance(obj, list | tuple):
        raise InvalidSchedule(field, obj, "must be a list")
    return list(obj)
