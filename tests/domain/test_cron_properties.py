"""What holds for every expression, zone and instant; a slow second opinion, at the end, is the judge."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tocsin.domain.cron_walk import Fold, Gap
from tocsin.domain.schedule import next_after

MINUTE = timedelta(minutes=1)
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


steady = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])

# Each zone with instants at which its clocks change, or nearly so.
CHANGES = {
    "UTC": ["2026-03-08T00:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00", "2040-03-11T07:00"],
    "Europe/London": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Europe/Dublin": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00", "2026-10-03T15:30"],
    "America/Santiago": ["2026-04-05T03:00", "2026-09-06T04:00"],
    "Asia/Beirut": ["2026-03-28T22:00", "2026-10-24T21:00"],
    "Pacific/Apia": ["2011-12-30T10:00", "2010-09-26T11:00"],
    "Pacific/Kwajalein": ["1993-08-21T12:00"],
    "America/Sitka": ["1983-10-30T10:00"],
    "Africa/Casablanca": ["2026-02-15T02:00", "2026-03-22T02:00"],
    "America/Nuuk": ["2023-03-26T01:00", "2026-10-25T01:00"],
    "Antarctica/Troll": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Asia/Kathmandu": ["1985-12-31T18:30"],
    "Africa/Cairo": ["2026-04-23T22:00", "2026-10-29T21:00"],
    "Asia/Gaza": ["2026-03-28T00:00", "2026-10-23T23:00"],
}


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(sorted)
    spread = pair.map(lambda ends: f"{ends[0]}-{ends[1]}")
    step = st.integers(1, high + 3)
    item = st.one_of(
        number.map(str),
        spread,
        st.tuples(spread, step).map(lambda parts: f"{parts[0]}/{parts[1]}"),
        st.tuples(number, step).map(lambda parts: f"{parts[0]}/{parts[1]}"),
    )
    stars = st.one_of(st.just("*"), step.map(lambda each: f"*/{each}"))
    return st.one_of(stars, st.lists(item, min_size=1, max_size=3).map(",".join))


days = st.one_of(st.just("*"), st.just("*"), field(1, 28))
weekdays = st.one_of(st.just("*"), st.just("*"), field(0, 7))
expressions = st.tuples(field(0, 59), field(0, 23), days, st.just("*"), weekdays).map(" ".join)
# Times of day near the hours at which clocks change.
small_hours = st.tuples(
    st.sampled_from(["0", "30", "15,45", "0-59", "59"]),
    st.sampled_from(["0", "1", "2", "3", "0-3", "1,2,3", "2-3"]),
).map(lambda parts: f"{parts[0]} {parts[1]} * * *")


@st.composite
def near_changes(draw: st.DrawFn) -> tuple[str, datetime]:
    tz = draw(st.sampled_from(sorted(CHANGES)))
    change = datetime.fromisoformat(draw(st.sampled_from(CHANGES[tz]))).replace(tzinfo=UTC)
    return tz, change + timedelta(minutes=draw(st.integers(-1500, 60)))


@settings(steady, max_examples=400)
@given(
    st.one_of(expressions, small_hours, small_hours),
    near_changes(),
    st.sampled_from(["shift", "skip"]),
    st.sampled_from(["first", "last", "both"]),
)
def test_it_agrees_with_a_minute_by_minute_enumeration(
    expression: str, place: tuple[str, datetime], gap: Gap, fold: Fold
) -> None:
    tz, after = place
    until = after + timedelta(hours=26)
    expected = due_between(expression, tz, after, until, gap=gap, fold=fold)
    found = []
    at = next_after(expression, tz, after, gap=gap, fold=fold)
    while at is not None and at <= until:
        found.append(at)
        at = next_after(expression, tz, at, gap=gap, fold=fold)
    assert found == expected


@settings(steady, max_examples=300)
@given(expressions, near_changes(), st.integers(0, 10**12), st.integers(0, 999_999))
def test_every_instant_before_the_next_occurrence_has_the_same_next(
    expression: str, place: tuple[str, datetime], draw: int, micro: int
) -> None:
    tz, after = place
    after += timedelta(microseconds=micro)
    following = next_after(expression, tz, after)
    assert following is not None
    assert following > after
    between = after + timedelta(microseconds=draw % ((following - after) // timedelta(microseconds=1)))
    assert next_after(expression, tz, between) == following
    beyond = next_after(expression, tz, following)
    assert beyond is not None
    assert beyond > following


def values(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for item in text.split(","):
        body, _, step = item.partition("/")
        if body == "*":
            first, last = low, high
        elif "-" in body:
            first, last = (int(part) for part in body.split("-"))
        else:
            first = int(body)
            last = high if step else first
        found.update(range(first, last + 1, int(step or 1)))
    return found


def matches(expression: str, local: datetime) -> bool:
    """Whether a wall clock reading matches an expression of numbers, ``*``, ranges, steps and lists."""
    texts = expression.split()
    minutes, hours, dates, months, weekdays = (
        values(text, *bounds) for text, bounds in zip(texts, BOUNDS, strict=True)
    )
    if local.minute not in minutes or local.hour not in hours or local.month not in months:
        return False
    by_date = local.day in dates
    by_weekday = local.isoweekday() in weekdays or local.isoweekday() % 7 in weekdays
    if texts[2].startswith("*") or texts[4].startswith("*"):
        return by_date and by_weekday
    return by_date or by_weekday


def is_fixed(expression: str) -> bool:
    return not set("*/") & set("".join(expression.split()[:2]))


def due_between(expression: str, tz: str, after: datetime, until: datetime, *, gap: str, fold: str) -> list[datetime]:
    """All instants in ``after < t <= until``, at full minutes of UTC; ``after`` is one too."""
    found: set[datetime] = set()
    # A minute earlier, so that a change at the first minute is seen.
    at = after - MINUTE
    zone = ZoneInfo(tz)
    previous = at.astimezone(zone).replace(tzinfo=None)
    while at < until:
        at += MINUTE
        here = at.astimezone(zone)
        local = here.replace(tzinfo=None)
        if not is_fixed(expression):
            if matches(expression, local):
                found.add(at)
        else:
            missed = previous + MINUTE
            while missed < local:  # the clock jumped forward: these readings never came
                if gap == "shift" and matches(expression, missed):
                    found.add(at)
                missed += MINUTE
            if matches(expression, local) and _is_chosen_copy(at, here, zone, fold):
                found.add(at)
        previous = local
    return sorted(one for one in found if one > after)


def _is_chosen_copy(at: datetime, here: datetime, zone: ZoneInfo, fold: str) -> bool:
    other = here.replace(fold=1 - here.fold).astimezone(UTC)
    is_twice = other != at and other.astimezone(zone).replace(tzinfo=None) == here.replace(tzinfo=None)
    if fold == "both" or not is_twice:
        return True
    return (at < other) == (fold == "first")
