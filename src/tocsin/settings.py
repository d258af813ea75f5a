"""Settings: the environment first, then ``tocsin.toml`` [hub], then defaults. Checked all at once."""

import os
import tomllib
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tocsin.domain.duration import format_duration, parse_duration
from tocsin.domain.errors import BadInput, InvalidSetting

PREFIX: Final = "TOCSIN_"
FILE: Final = "tocsin.toml"
UNTOLD: Final = (f"{PREFIX}DATABASE_URL", f"{PREFIX}AGENT_KEY")
"""Settings whose values no error repeats: they hold a password, or are one."""


def _duration(value: object) -> timedelta:
    if not isinstance(value, str | int | float | timedelta):
        raise ValueError("must be a duration such as 30s, 5m or 1h30m")
    try:
        return parse_duration(value)
    except BadInput as error:
        raise ValueError(str(error)) from None


def _bind(value: object) -> str:
    text = str(value)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8620")
    return text


def _bind_or_off(value: object) -> str | None:
    return None if value is None or str(value).lower() == "off" else _bind(value)


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Bind = Annotated[str, BeforeValidator(_bind)]
BindOrOff = Annotated[str | None, BeforeValidator(_bind_or_off)]


class _HubTable(PydanticBaseSettingsSource):
    """The [hub] table of ``tocsin.toml`` in the working directory."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # pragma: no cover - unused
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return read_hub_table(Path(FILE))


def read_hub_table(path: Path) -> dict[str, Any]:
    """The [hub] table of a file, {} when there is none.

    Raises: InvalidSetting, when the file is not TOML.
    """
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("hub", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidSetting([f"{path}: {error}"]) from None
    if not isinstance(table, dict):
        raise InvalidSetting([f"{path}: hub must be a table, [hub]"])
    return {key.lower(): value for key, value in table.items()}


def unknown_keys(path: Path) -> list[str]:
    """Keys of the [hub] table that are no settings, one line each."""
    table = read_hub_table(path)
    return [
        f"{path}: hub.{key} is no setting; see `tocsin doctor`" for key in table if key not in Settings.model_fields
    ]


class Settings(BaseSettings):
    """Every setting of a process, whether hub or agents. Durations are written as 30s, 5m, 1h30m, 30d."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: str | None = None
    db_pooler: Literal["none", "transaction"] = "none"
    home: Path = Path(".tocsin")
    pg_bin: str | None = None
    http_bind: Bind = "127.0.0.1:8620"
    grpc_bind: BindOrOff = "127.0.0.1:8621"
    grpc_cert: Path | None = None
    grpc_key: Path | None = None
    grpc_ca: Path | None = None
    grpc_insecure: bool = False
    suspect_after: Duration = timedelta(seconds=20)
    dead_after: Duration = timedelta(seconds=90)
    url: str | None = None
    key: str | None = None
    key_file: Path | None = None
    ca: Path | None = None
    http_insecure: bool = False
    hub: str = "127.0.0.1:8621"
    agent_key: str | None = None
    drain_timeout: Duration = timedelta(seconds=25)
    lease: Duration = timedelta(seconds=30)
    renew_every: Duration = timedelta(seconds=5)
    sweep_every: Duration = timedelta(seconds=5)
    poll_every: Duration = timedelta(seconds=5)
    batch: int = Field(default=500, ge=1, le=5_000)
    slots: int = Field(default=100, ge=1, le=10_000)
    retention: Duration = timedelta(days=30)
    audit_retention: Duration = timedelta(days=365)
    metrics_triggers: int = Field(default=200, ge=0, le=10_000)
    feed_retention: Duration = timedelta(minutes=15)
    streams: int = Field(default=500, ge=0, le=900)
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _HubTable(settings_cls)

    @property
    def is_grpc_local(self) -> bool:
        """Whether only processes of this host can reach the gRPC port."""
        return self.grpc_bind is None or is_loopback(self.grpc_bind.rpartition(":")[0])

    @property
    def is_http_local(self) -> bool:
        """Whether only processes of this host can reach the HTTP port."""
        return is_loopback(self.http_bind.rpartition(":")[0])

    @property
    def pooled(self) -> bool:
        return self.db_pooler == "transaction"


def load_settings(**given: Any) -> Settings:
    """The settings of this process; ``given`` goes before the environment.

    Raises: InvalidSetting, with every fault, one line each.
    """
    faults = unknown_keys(Path(FILE))
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise InvalidSetting([*faults, *(_line(fault) for fault in error.errors())]) from None
    faults += contradictions(settings)
    if faults:
        raise InvalidSetting(faults)
    return settings


def is_loopback(host: str) -> bool:
    """Whether the host is this one, as it is written."""
    name = host.strip("[]")
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _line(fault: Any) -> str:
    name = f"{PREFIX}{str(fault['loc'][0]).upper()}" if fault["loc"] else "settings"
    text = str(fault["msg"]).removeprefix("Value error, ")
    value = "…" if name in UNTOLD else fault.get("input")
    return f"{name}={value!s}: {text}"


def contradictions(settings: Settings) -> list[str]:
    """Settings that cannot hold together, one line each."""
    rules: list[tuple[bool, str]] = [
        (
            settings.renew_every * 3 > settings.lease,
            f"TOCSIN_RENEW_EVERY={format_duration(settings.renew_every)} must be at most a third of "
            f"TOCSIN_LEASE={format_duration(settings.lease)}, so that two lost renewals are survived",
        ),
        (
            not timedelta(0) < settings.suspect_after < settings.dead_after,
            f"TOCSIN_SUSPECT_AFTER={format_duration(settings.suspect_after)} must be shorter than "
            f"TOCSIN_DEAD_AFTER={format_duration(settings.dead_after)}",
        ),
        (
            (settings.grpc_cert is None) != (settings.grpc_key is None),
            "TOCSIN_GRPC_CERT and TOCSIN_GRPC_KEY go together: a certificate and its private key",
        ),
        (
            settings.grpc_cert is None and not settings.is_grpc_local and not settings.grpc_insecure,
            f"TOCSIN_GRPC_BIND={settings.grpc_bind} can be reached from other hosts: set TOCSIN_GRPC_CERT and "
            "TOCSIN_GRPC_KEY, or TOCSIN_GRPC_INSECURE=1 where the network itself is private",
        ),
        (
            settings.key is not None and settings.key_file is not None,
            "TOCSIN_KEY and TOCSIN_KEY_FILE exclude each other: unset one of them",
        ),
        (settings.lease < timedelta(seconds=1), f"TOCSIN_LEASE={format_duration(settings.lease)} must be at least 1s"),
        (
            # A retention that is too short is told of itself.
            not timedelta(minutes=1) <= settings.feed_retention <= max(settings.retention, timedelta(hours=1)),
            f"TOCSIN_FEED_RETENTION={format_duration(settings.feed_retention)} must be at least 1m, and at most "
            f"TOCSIN_RETENTION={format_duration(settings.retention)}",
        ),
    ]
    for name in ("retention", "audit_retention"):
        kept: timedelta = getattr(settings, name)
        rules.append((kept < timedelta(hours=1), f"TOCSIN_{name.upper()} must be at least 1h"))
    for name in ("renew_every", "sweep_every", "poll_every"):
        value: timedelta = getattr(settings, name)
        rules.append((value < timedelta(milliseconds=50), f"TOCSIN_{name.upper()} must be at least 50ms"))
    rules.append((settings.drain_timeout < timedelta(0), "TOCSIN_DRAIN_TIMEOUT must not be negative"))
    return [text for broken, text in rules if broken]


def unknown_variables() -> list[str]:
    """TOCSIN_ variables that are no settings: most likely misspelt."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    ours = (name for name in os.environ if name.startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_"))
    return sorted(name for name in ours if name not in known)
