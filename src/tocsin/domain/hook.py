"""A trigger's webhook: who may call it, and how a call proves that it is theirs.

The secrets are named, never held: each name is that of a variable in the hub's environment. All kinds of signature are
one: HMAC-SHA256 over a template of the call's id, its timestamp and its body.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from tocsin.domain.duration import format_duration, parse_duration
from tocsin.domain.errors import BadInput

MOST_SECRETS: Final = 2
"""The one that is used, and the one that it takes the place of, or that takes its."""

TOLERANCE: Final = timedelta(minutes=5)
SHORTEST: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(days=1)
MAX_LENGTH: Final = 200

OPTIONS: Final = (
    "scheme",
    "secret",
    "header",
    "prefix",
    "encoding",
    "signed",
    "timestamp_header",
    "tolerance",
    "id_header",
    "type_header",
)
"""What may be said of a hook."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_HEADER: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_PART: Final = re.compile(r"\{([^{}]*)\}")
_PARTS: Final = frozenset({"id", "timestamp", "body"})


class Scheme(StrEnum):
    """STANDARD: Standard Webhooks, https://www.standardwebhooks.com. GITHUB: X-Hub-Signature-256. HMAC: as the hook's
    further options say. NONE: whoever reaches the port.
    """

    STANDARD = "standard"
    GITHUB = "github"
    HMAC = "hmac"
    NONE = "none"


class Encoding(StrEnum):
    HEX = "hex"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """secret: names of variables, the one in use first. header: where the signature stands, after the prefix.

    signed: what it covers, with {id}, {timestamp} and {body} in their places. tolerance: how far a timestamp may be
    from the database's clock. id_header: where the call's id stands, by which it is taken once; type_header: what
    becomes the event's type.
    """

    scheme: Scheme
    secret: tuple[str, ...] = ()
    header: str | None = None
    prefix: str = ""
    encoding: Encoding = Encoding.HEX
    signed: str = "{body}"
    timestamp_header: str | None = None
    tolerance: timedelta = TOLERANCE
    id_header: str | None = None
    type_header: str | None = None

    def __post_init__(self) -> None:
        self._check_secret()
        for name in ("header", "timestamp_header", "id_header", "type_header"):
            header = getattr(self, name)
            if header is not None and not (isinstance(header, str) and _HEADER.fullmatch(header)):
                raise BadInput(f"hook {name} {header!r}: must be a header's name, such as x-signature")
        for name in ("prefix", "signed"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.isascii() or len(text) > MAX_LENGTH or "\n" in text:
                raise BadInput(f"hook {name} {text!r}: must be at most {MAX_LENGTH} ASCII characters on one line")
        if (self.header is None) != (self.scheme is Scheme.NONE):
            raise BadInput(
                f"hook header: {'is missing: which one has the signature?' if self.header is None else _IDLE}"
            )
        self._check_signed()
        if not SHORTEST <= self.tolerance <= LONGEST:
            raise BadInput(f"hook tolerance must be from 1s to 1d, not {format_duration(self.tolerance)}")

    def _check_secret(self) -> None:
        if self.scheme is Scheme.NONE:
            if self.secret:
                raise BadInput(f"hook secret: {_IDLE}")
            return
        if not 1 <= len(self.secret) <= MOST_SECRETS:
            raise BadInput(
                "hook secret: name the variable of the hub's environment that has it, or two while it is exchanged"
            )
        for name in self.secret:
            if not _VARIABLE.fullmatch(name):
                # What stands there may be the secret itself.
                raise BadInput("hook secret: must be the name of a variable in the hub's environment, not the secret")
            if name.startswith("TOCSIN_"):
                raise BadInput(f"hook secret {name!r}: the hub's own settings are no secrets of a webhook")

    def _check_signed(self) -> None:
        parts = _PART.findall(self.signed)
        if not set(parts) <= _PARTS or parts.count("body") != 1 or len(set(parts)) != len(parts):
            raise BadInput(
                f"hook signed {self.signed!r}: must have {{body}}, and may have {{timestamp}} and {{id}}, once"
            )
        for part, header in (("timestamp", self.timestamp_header), ("id", self.id_header)):
            if part in parts and header is None:
                raise BadInput(f"hook signed {self.signed!r}: {part}_header must say where the {part} stands")
        if self.timestamp_header is not None and "timestamp" not in parts:
            raise BadInput("hook timestamp_header: a timestamp that is not signed proves nothing: add it to signed")

    @property
    def is_id_signed(self) -> bool:
        return "{id}" in self.signed

    @property
    def is_verified(self) -> bool:
        return self.scheme is not Scheme.NONE

    def key_of(self, secret: str) -> bytes:
        """The bytes of a secret. Raises: BadInput, without repeating it; also when there are none."""
        try:
            is_packed = self.scheme is Scheme.STANDARD
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True) if is_packed else secret.encode()
        except (binascii.Error, ValueError):
            raise BadInput("a secret of Standard Webhooks is base64, with whsec_ in front") from None
        if not key.strip():
            raise BadInput("it is empty, so that everybody could sign: set it to the secret that the sender has")
        return key

    def content(self, *, id: str, timestamp: str, body: bytes) -> bytes:  # noqa: A002 — the template's own word
        """What is signed. id, timestamp: as headers have them, a character for each byte."""
        given = {
            "id": id.encode("latin-1", "replace"),
            "timestamp": timestamp.encode("latin-1", "replace"),
            "body": body,
        }
        texts = _PART.split(self.signed)
        return b"".join(given[text] if place % 2 else text.encode() for place, text in enumerate(texts))

    def to_json(self) -> dict[str, Any]:
        """The canonical form; what the scheme says by itself is left out."""
        form: dict[str, Any] = {"scheme": self.scheme.value}
        if self.secret:
            form["secret"] = self.secret[0] if len(self.secret) == 1 else list(self.secret)
        usual = _USUAL[self.scheme]
        for name in OPTIONS[2:]:
            value = getattr(self, name)
            if value == usual.get(name, _DEFAULTS[name]):
                continue
            if isinstance(value, timedelta):
                form["tolerance_seconds"] = value.total_seconds()
            else:
                form[name] = str(value)
        return form

    @classmethod
    def from_json(cls, form: object) -> "Hook":
        """Raises: BadInput."""
        if not isinstance(form, Mapping):
            raise BadInput("a hook must be an object, such as {scheme, secret}")
        given = {("tolerance" if name == "tolerance_seconds" else name): value for name, value in form.items()}
        return read_hook(given)

    def __str__(self) -> str:
        """The hook in one line, as listings show it."""
        return f"{self.scheme}, secret {' or '.join(self.secret)}" if self.secret else "called by anybody"


_IDLE: Final = "does nothing where nothing is verified"

_USUAL: Final[Mapping[Scheme, Mapping[str, Any]]] = {
    Scheme.STANDARD: {
        "header": "webhook-signature",
        "prefix": "v1,",
        "encoding": Encoding.BASE64,
        "signed": "{id}.{timestamp}.{body}",
        "timestamp_header": "webhook-timestamp",
        "id_header": "webhook-id",
    },
    Scheme.GITHUB: {
        "header": "x-hub-signature-256",
        "prefix": "sha256=",
        "id_header": "x-github-delivery",
        "type_header": "x-github-event",
    },
    Scheme.HMAC: {},
    Scheme.NONE: {"id_header": "webhook-id"},
}
"""What each scheme says by itself."""

_FIXED: Final[Mapping[Scheme, frozenset[str]]] = {
    Scheme.STANDARD: frozenset(OPTIONS) - {"scheme", "secret", "tolerance"},
    Scheme.GITHUB: frozenset(OPTIONS) - {"scheme", "secret"},
    Scheme.HMAC: frozenset(),
    Scheme.NONE: frozenset(OPTIONS) - {"scheme", "id_header", "type_header"},
}

_DEFAULTS: Final[Mapping[str, Any]] = {
    "header": None,
    "prefix": "",
    "encoding": Encoding.HEX,
    "signed": "{body}",
    "timestamp_header": None,
    "tolerance": TOLERANCE,
    "id_header": None,
    "type_header": None,
}

SVIX: Final = Hook(
    scheme=Scheme.STANDARD,
    secret=("svix",),
    header="svix-signature",
    prefix="v1,",
    encoding=Encoding.BASE64,
    signed="{id}.{timestamp}.{body}",
    timestamp_header="svix-timestamp",
    id_header="svix-id",
)
"""Standard Webhooks under the names that the headers had before there was a standard."""


def webhook(
    scheme: str,
    *,
    secret: str | Sequence[str] = (),
    header: str | None = None,
    prefix: str | None = None,
    encoding: str | None = None,
    signed: str | None = None,
    timestamp_header: str | None = None,
    tolerance: str | float | timedelta | None = None,
    id_header: str | None = None,
    type_header: str | None = None,
) -> Hook:
    """Who may call a trigger at ``/hooks/NAME``, as in ``webhook("github", secret="GITHUB_WEBHOOK_SECRET")``.

    scheme: ``standard``, ``github``, ``hmac``, or ``none`` for whoever reaches the port. secret: the name of the
    variable in the hub's environment that has it; two while it is exchanged. The rest is for ``hmac``.

    Raises: BadInput.
    """
    given = {
        "scheme": scheme,
        "secret": secret,
        "header": header,
        "prefix": prefix,
        "encoding": encoding,
        "signed": signed,
        "timestamp_header": timestamp_header,
        "tolerance": tolerance,
        "id_header": id_header,
        "type_header": type_header,
    }
    return read_hook({name: value for name, value in given.items() if value is not None and value != ()})


def read_hook(given: Mapping[str, Any]) -> Hook:
    """The hook of a table of ``webhook``'s options.

    Raises: BadInput, for the first fault.
    """
    for name in given:
        if name not in OPTIONS:
            raise BadInput(f"hook: {str(name)[:80]!r} is unknown; must be one of {', '.join(OPTIONS)}")
    scheme = _one_of(Scheme, "scheme", given.get("scheme"))
    for name in OPTIONS:
        if name in given and name in _FIXED[scheme]:
            raise BadInput(f"hook {name}: {'is what scheme ' + scheme + ' says' if scheme != 'none' else _IDLE}")
    fields = {**_USUAL[scheme], **{name: _read(name, value) for name, value in given.items() if name != "scheme"}}
    if scheme is Scheme.HMAC and "timestamp_header" in fields:
        fields.setdefault("signed", "{timestamp}.{body}")
    return Hook(scheme=scheme, **fields)


def _read(name: str, value: Any) -> Any:
    match name:
        case "secret":
            names = (value,) if isinstance(value, str) else value
            is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
            return tuple(names) if is_list else ()
        case "encoding":
            return _one_of(Encoding, name, value)
        case "tolerance":
            try:
                return parse_duration(value)
            except BadInput as fault:
                raise BadInput(f"hook tolerance: {str(fault).removeprefix('duration ')}") from None
        case "header" | "timestamp_header" | "id_header" | "type_header":
            return value.lower() if isinstance(value, str) else value
        case _:
            return value


def _one_of(kind: type[StrEnum], name: str, value: object) -> Any:
    if isinstance(value, str) and value in list(kind):
        return kind(value)
    raise BadInput(f"hook {name} {value!r}: must be one of {', '.join(kind)}")
