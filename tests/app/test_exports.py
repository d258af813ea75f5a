"""What ``import tocsin`` gives."""

import subprocess
import sys

import tocsin

PUBLIC = [
    "App",
    "BadInput",
    "Cancelled",
    "Fatal",
    "Hub",
    "InvalidApp",
    "InvalidSchedule",
    "PayloadTooLarge",
    "RetryAfter",
    "Run",
    "Schedule",
    "TocsinError",
    "at",
    "cron",
    "every",
    "load_app",
    "next_after",
    "on_event",
    "webhook",
]


def test_the_public_names_are_these_in_order() -> None:
    assert tocsin.__all__ == PUBLIC == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(tocsin, name).__name__ == name
        assert name in dir(tocsin)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(tocsin, "Hubb")


def test_importing_the_package_loads_nothing_heavy_and_a_hub_no_event_loop() -> None:
    def loaded_by(code: str) -> set[str]:
        shown = f"import sys; {code}; print(*sys.modules)"
        return set(
            subprocess.run([sys.executable, "-c", shown], capture_output=True, check=True).stdout.decode().split()
        )

    assert not loaded_by("import tocsin") & {"msgspec", "asyncio", "tocsin.app"}
    assert not loaded_by("from tocsin import Hub, cron, every") & {"asyncio", "asyncpg", "structlog", "pydantic"}
