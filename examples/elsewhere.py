"""Agents that run in processes of their own: checks the links of this checkout's pages.

    tocsin up examples/demo.py --work examples/elsewhere.py --work examples/elsewhere.py

Kill one of the two while it is at work (``kill -9``, the live view shows its pid): the hub suspects it at once, gives
it up six seconds later, and its run begins in the other.
"""

import asyncio
import re
from pathlib import Path
from typing import Any

from tocsin import Hub, Run, every

CHECKOUT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
PAUSE = 0.15

hub = Hub(name="elsewhere")


@hub.agent(suspect_after="2s", dead_after="6s", timeout="1m")
async def links(run: Run) -> dict[str, Any]:
    """Every relative link of every page leads somewhere."""
    pages = sorted(page for page in CHECKOUT.glob("**/*.md") if not {".venv", ".tocsin"} & set(page.parts))
    seen, broken = 0, []
    for number, page in enumerate(pages):
        run.progress(page.name, fraction=number / len(pages))
        for target in LINK.findall(page.read_text(encoding="utf-8", errors="replace")):
            seen += 1
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(CHECKOUT)}: {target}")
        await asyncio.sleep(PAUSE)
    return {"pages": len(pages), "links": seen, "broken": broken[:10]}


hub.trigger("links", links, every("8s"), overlap="skip")
