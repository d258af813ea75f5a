"""A bar chart as SVG: one bar a contestant, a whisker for the range, a logarithmic axis where values lie far apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 760
LABELS: Final = 170
VALUES: Final = 150
ROW: Final = 24
HEAD: Final = 40
FAR_APART: Final = 30.0
COLOURS: Final = {"reference": "#9a9a9a", "tuned reference": "#9a9a9a", "Tocsin": "#b3311f"}
OTHER: Final = "#4a6d8c"


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    value: float
    low: float
    high: float
    text: str


def bar_chart(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """bars: in the order of their rows."""
    highest = max((bar.high for bar in bars), default=1.0) or 1.0
    positive = [bar.low for bar in bars if bar.low > 0]
    lowest = min(positive, default=highest)
    logarithmic = highest / lowest > FAR_APART
    room = WIDTH - LABELS - VALUES

    def place(value: float) -> float:
        if not logarithmic:
            return LABELS + room * max(value, 0) / highest
        if value <= 0:
            return float(LABELS)
        floor = math.log10(lowest) - 0.3
        return LABELS + room * max(0.0, math.log10(value) - floor) / (math.log10(highest) - floor)

    height = HEAD + ROW * len(bars) + 8
    words = f"{title}, {unit}" + (", logarithmic" if logarithmic else "")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="22" font-size="15" fill="#222222">{escape(words)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = HEAD + ROW * number
        middle = top + ROW / 2
        end = place(bar.value)
        colour = COLOURS.get(bar.label, OTHER)
        label = f'x="{LABELS - 8}" y="{middle + 4:.1f}" text-anchor="end" fill="#222222"'
        shape = f'x="{LABELS}" y="{top + 4}" width="{max(end - LABELS, 1):.1f}" height="{ROW - 8}" fill="{colour}"'
        whisker = f'x1="{place(bar.low):.1f}" x2="{place(bar.high):.1f}" y1="{middle}" y2="{middle}"'
        beside = max(end, place(bar.high)) + 8
        lines += [
            f"<text {label}>{escape(bar.label)}</text>",
            f"<rect {shape}/>",
            f'<line {whisker} stroke="#222222" stroke-width="1.5"/>',
            f'<text x="{beside:.1f}" y="{middle + 4:.1f}" fill="#222222">{escape(bar.text)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
