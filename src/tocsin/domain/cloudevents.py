"""CloudEvents 1.0 as they stand on the wire, read strictly: what is no event names the attribute that is at fault.

Source: CloudEvents 1.0.2, "JSON Event Format" and "HTTP Protocol Binding",
https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from tocsin.domain.errors import BadInput
from tocsin.domain.event import Event
from tocsin.domain.payload import accept

VERSION: Final = "1.0"
REQUIRED: Final = ("specversion", "id", "source", "type")
OF_HEADERS: Final = "ce-"

_TEXTS: Final = frozenset({*REQUIRED, "subject", "datacontenttype", "dataschema", "time"})
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def read_structured(form: object, *, at: str = "event") -> Event:
    """An event of the JSON format. at: which of several, for the refusal.

    Raises: BadInput.
    """
    if not isinstance(form, Mapping):
        raise BadInput(f"{at}: must be a JSON object with {', '.join(REQUIRED)}")
    attributes = {name: value for name, value in form.items() if value is not None and name not in _DATA}
    data = form.get("data")
    if form.get("data_base64") is not None:
        if data is not None:
            raise BadInput(f"{at}: has data and data_base64: only one of them")
        data = read_data(_unpacked(form["data_base64"], at), attributes.get("datacontenttype"), at=at)
    return _event(attributes, data, at)


def structured(event: Event) -> dict[str, Any]:
    """The event in the JSON format, as ``read_structured`` reads it."""
    form = event.view() | {"specversion": VERSION}
    return {name: value for name, value in form.items() if value is not None}


def read_binary(headers: Mapping[str, str], body: bytes, media: str) -> Event:
    """An event whose attributes are headers. headers: by their names in lower case.

    Raises: BadInput.
    """
    attributes: dict[str, Any] = {}
    for header, text in headers.items():
        if header.startswith(OF_HEADERS):
            name = header.removeprefix(OF_HEADERS)
            if name in ("datacontenttype", "data", "data_base64"):
                raise BadInput(f"event {header}: is no header; Content-Type and the body say it")
            attributes[name] = _unescaped(header, text)
    if media:
        attributes["datacontenttype"] = media
    return _event(attributes, read_data(body, media, at="event"), "event")


def read_data(body: bytes, media: object, *, at: str) -> Any:
    """JSON as its value, text as text.

    Raises: BadInput, also for what is neither.
    """
    kind = media.partition(";")[0].strip().lower() if isinstance(media, str) else ""
    if not body:
        return None
    if kind in ("", "application/json", "text/json") or kind.endswith("+json"):
        return msgspec.json.decode(accept(body, what=f"{at} data"))
    if not kind.startswith("text/") and not kind.endswith(("/xml", "+xml")):
        raise BadInput(
            f"{at} data of type {kind[:80]!r}: is taken as JSON or as text; store it elsewhere, pass a reference"
        )
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{at} data: is not UTF-8") from None


def _event(attributes: Mapping[str, Any], data: Any, at: str) -> Event:
    for name in REQUIRED:
        if name not in attributes:
            raise BadInput(f"{at} {name}: is missing; each event has {', '.join(REQUIRED)}")
    for name in _TEXTS & attributes.keys():
        if not isinstance(attributes[name], str) or not attributes[name]:
            raise BadInput(f"{at} {name}: must be a text that is not empty")
    if attributes["specversion"] != VERSION:
        raise BadInput(f"{at} specversion {attributes['specversion'][:20]!r}: must be {VERSION}")
    for name, value in attributes.items():
        if not isinstance(value, str | int | bool):
            raise BadInput(f"{at} {str(name)[:80]}: must be a text, an integer or a truth value; data has the rest")
    own = {name: attributes[name] for name in ("id", "source", "type", "subject") if name in attributes}
    rest = {
        name: value for name, value in attributes.items() if name not in own and name not in ("specversion", "time")
    }
    if _is_plain(rest.get("datacontenttype")):
        del rest["datacontenttype"]
    event = Event(**own, time=_time(attributes.get("time"), at), data=data, extensions=rest)
    event.check()
    return event


_DATA: Final = ("data", "data_base64")


def _is_plain(media: object) -> bool:
    return isinstance(media, str) and media.partition(";")[0].strip().lower() == "application/json"


def _time(text: str | None, at: str) -> datetime | None:
    """Source: RFC 3339."""
    if text is None:
        return None
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        return datetime.fromisoformat(text.upper())
    except ValueError:
        raise BadInput(f"{at} time {text[:40]!r}: must be as RFC 3339 has it, such as 2026-03-29T01:00:00Z") from None


def _unpacked(text: object, at: str) -> bytes:
    try:
        if not isinstance(text, str):
            raise ValueError
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput(f"{at} data_base64: must be base64") from None


def _unescaped(header: str, text: str) -> str:
    """Source: HTTP Protocol Binding, 3.1.3.2: percent-encoded UTF-8."""
    plain = text[1:-1].replace('\\"', '"').replace("\\\\", "\\") if text[:1] == text[-1:] == '"' and text[1:] else text
    try:
        return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), plain.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise BadInput(f"event {header}: must be UTF-8, percent-encoded") from None
