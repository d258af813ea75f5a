"""Whether runs are traced: as the standard variables of OpenTelemetry say. Nothing of it is imported here.

Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from tocsin.domain.errors import BadInput
from tocsin.telemetry import Log

if TYPE_CHECKING:
    from tocsin.otel.pipeline import Pipeline

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def is_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody has said where traces are to go."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporters != "none" if exporters else any(environ.get(name) for name in ENDPOINTS)


def is_installed() -> bool:
    try:
        return find_spec("opentelemetry.sdk.trace") is not None
    except ModuleNotFoundError:
        return False


def is_on() -> bool:
    return is_wanted() and is_installed()


def open_pipeline(*, instance: str, log: Log) -> "Pipeline | None":
    """Where spans go, once somebody has said so; None else. Why it cannot be is logged, and keeps nothing from working.

    instance: how this process is told from its like.
    """
    if not is_wanted():
        return None
    if not is_installed():
        log.warning("traces.off", reason="OpenTelemetry is not installed: pip install 'tocsin[otel]'")
        return None
    from tocsin.otel.pipeline import Pipeline  # noqa: PLC0415

    try:
        return Pipeline.from_environment(instance=instance, log=log)
    except BadInput as error:
        log.warning("traces.off", reason=str(error))
        return None
