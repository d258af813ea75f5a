"""The first paragraph of a digest: by a model where there is a key for one, else by plain code that says so."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from history import Change

MODEL: Final = os.environ.get("DEMO_MODEL", "openai:gpt-5-mini")
ASK: Final = "Say in three plain sentences, for somebody who returns from a week away, what these changes did:\n\n"


@dataclass(frozen=True, slots=True)
class Prose:
    """model: which one wrote it; None for plain code."""

    text: str
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0


async def prose_of(changes: Sequence[Change], source: str) -> Prose:
    """A paragraph about the changes."""
    if not os.environ.get("OPENAI_API_KEY"):
        return Prose(f"{_counted(changes, source)} (Written by plain code: OPENAI_API_KEY is not set.)")
    try:
        from pydantic_ai import Agent  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 — an extra
    except ImportError:
        return Prose(f"{_counted(changes, source)} (Written by plain code: pip install 'tocsin[ai]' for a model.)")
    result = await Agent(MODEL).run(ASK + "\n".join(f"- {change.area}: {change.title}" for change in changes))
    usage = result.usage
    return Prose(str(result.output), MODEL, usage.input_tokens or 0, usage.output_tokens or 0)


def _counted(changes: Sequence[Change], source: str) -> str:
    authors = Counter(change.author for change in changes)
    areas = Counter(change.area for change in changes)
    what = "commits" if source == "git" else "files"
    (author, by), (area, there) = authors.most_common(1)[0], areas.most_common(1)[0]
    return (
        f"{len(changes)} {what} between {changes[0].at:%Y-%m-%d} and {changes[-1].at:%Y-%m-%d}, "
        f"by {author} ({by}){_others(authors)}, most of them in {area} ({there}){_others(areas)}."
    )


def _others(counts: Counter[str]) -> str:
    return f" and {len(counts) - 1} more" if len(counts) > 1 else ""
