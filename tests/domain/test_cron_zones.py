"""The spans of a zone, against the changes its compiled file records."""

from datetime import timedelta
from importlib import resources
from io import BytesIO
from typing import cast
from zoneinfo import ZoneInfo

import pytest

from tocsin.domain.errors import InvalidSchedule
from tocsin.domain.zone import EPOCH, zone


def compiled(key: str) -> bytes:
    """The zone's file in the tzdata package, which is the one that zones are read from."""
    return resources.files("tzdata").joinpath("zoneinfo", *key.split("/")).read_bytes()


def packaged_keys() -> list[str]:
    listing = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8")
    return sorted(set(listing.split()) - {"localtime", "Factory", "posixrules"})


def packaged(key: str) -> ZoneInfo:
    return ZoneInfo.from_file(BytesIO(compiled(key)), key=key)


def recorded_changes(key: str) -> tuple[tuple[int, int], ...]:
    """The explicit changes of offset in a zone's compiled file: (second, offset from then on)."""
    data = compiled(key)
    wide = 44 + _size(data, 0, 4)
    _, _, _, times, types, _ = _counts(data, wide)
    begin = wide + 44
    kinds = begin + 8 * times
    offsets = [
        int.from_bytes(data[at : at + 4], signed=True) for at in range(kinds + times, kinds + times + 6 * types, 6)
    ]
    found = []
    held = offsets[0]
    for index in range(times):
        at = int.from_bytes(data[begin + 8 * index : begin + 8 * index + 8], signed=True)
        offset = offsets[data[kinds + index]]
        if offset != held:
            found.append((at, offset))
            held = offset
    return tuple(found)


def _counts(data: bytes, start: int) -> tuple[int, int, int, int, int, int]:
    numbers = (int.from_bytes(data[start + at : start + at + 4]) for at in range(20, 44, 4))
    return cast(tuple[int, int, int, int, int, int], tuple(numbers))


def _size(data: bytes, start: int, width: int) -> int:
    utc, standard, leaps, times, types, characters = _counts(data, start)
    return times * (width + 1) + types * 6 + characters + leaps * (width + 4) + utc + standard


def test_no_change_of_offset_since_1900_is_overlooked() -> None:
    for key in packaged_keys():
        where, info = zone(key), packaged(key)
        for at, offset in recorded_changes(key):
            if not -2_208_988_800 < at < 2_200_000_000:
                continue
            span = where.span_at(at)
            assert span.start == at, f"{key} at {EPOCH + timedelta(seconds=at)}"
            assert span.offset == offset
            assert where.span_at(at - 1).stop == at
            local = (EPOCH + timedelta(seconds=at)).astimezone(info)
            assert local.utcoffset() == timedelta(seconds=offset)


@pytest.mark.parametrize(
    "key",
    ["", " ", "../../etc/passwd", "/etc/passwd", "Europe", "Europe/", "localtime", "posixrules", "right/UTC",
     "Europe/Paris\n", "Europe/Atlantis", "tzdata.zi", "UTC\0", "x" * 1000, "CET/../UTC", None, 5, b"UTC"],
)  # fmt: skip
def test_what_is_no_zone_is_refused(key: object) -> None:
    with pytest.raises(InvalidSchedule) as refusal:
        zone(cast(str, key))
    assert refusal.value.field == "tz"
