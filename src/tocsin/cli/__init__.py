"""The command line. Nothing heavy is imported before the command that needs it is known."""

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command has run; its exit code, as docs promise: 0, 1, 2, 3, 4, or 130 when interrupted."""
    try:
        from tocsin.cli.program import run_command  # noqa: PLC0415

        return run_command(arguments)
    except KeyboardInterrupt:  # also while a module is still being read
        return 130
