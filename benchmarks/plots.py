"""
Plots as SVG, written without a library.

`goals.svg`: a bar for each goal. Its length is the measured value as a share of the bound; the bound is a line.
`equal-quality.svg`: panels of curves, one line for each server.
`rounds.svg`: each ratio and rate of a row as dots, one for each round, to show the spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH_PX = 1100
LABEL_PX = 560
LINE_PX = 22
MET, MISSED, INK, FAINT = "#2a7f62", "#c0392b", "#222", "#bbb"
LINES = ("#2a7f62", "#c0392b", "#2471a3", "#b9770e", "#7d3c98", "#566573")


def goals(rows: Sequence[dict[str, Any]]) -> str:
    """Draw bars of value/bound. A goal with ≥ is met right of the line, a goal with ≤ left of it."""
    lines = [(row["name"], goal) for row in rows for goal in row["goals"]]
    plot_px = WIDTH_PX - LABEL_PX - 110
    parts = []
    for number, (row, goal) in enumerate(lines):
        top = 40 + number * LINE_PX
        share = 0.0 if goal["value"] is None else goal["value"] / goal["bound"] if goal["bound"] else 0.0
        length = min(share, 2.0) / 2.0 * plot_px
        colour = MET if goal["is_met"] else MISSED
        sign = "≥" if goal["is_at_least"] else "≤"
        value = "?" if goal["value"] is None else f"{goal['value']:.3g}"
        parts += [
            _text(LABEL_PX - 8, top + 15, f"{row}: {goal['name']}", anchor="end"),
            f'<rect x="{LABEL_PX}" y="{top + 4}" width="{max(length, 1):.1f}" height="{LINE_PX - 8}" fill="{colour}"/>',
            _text(LABEL_PX + plot_px + 6, top + 15, f"{value} ({sign} {goal['bound']:g})", colour=colour),
        ]
    height = 60 + len(lines) * LINE_PX
    middle = LABEL_PX + plot_px / 2
    parts.append(f'<line x1="{middle}" x2="{middle}" y1="34" y2="{height - 14}" stroke="{INK}" stroke-width="1.5"/>')
    parts.append(_text(middle, 28, "the goal", anchor="middle"))
    return _svg(height, parts)


def rounds(rows: Sequence[dict[str, Any]], units: Sequence[str] = ("x", "1/s", "ms")) -> str:
    """Draw a line for each figure: its rounds as dots between 0 and twice the median, the median as a stroke."""
    lines = [(row["name"], item) for row in rows for item in row["figures"] if item["unit"] in units]
    plot_px = WIDTH_PX - LABEL_PX - 110
    parts = []
    for number, (row, item) in enumerate(lines):
        top = 30 + number * LINE_PX
        middle = top + LINE_PX / 2
        scale = plot_px / (2 * item["median"]) if item["median"] else 0.0
        parts += [
            _text(LABEL_PX - 8, top + 15, f"{row}: {item['name']}", anchor="end"),
            f'<line x1="{LABEL_PX}" x2="{LABEL_PX + plot_px}" y1="{middle}" y2="{middle}" stroke="{FAINT}"/>',
            (
                f'<line x1="{LABEL_PX + plot_px / 2}" x2="{LABEL_PX + plot_px / 2}" y1="{top + 4}" '
                f'y2="{top + LINE_PX - 4}" stroke="{INK}"/>'
            ),
            *(
                f'<circle cx="{LABEL_PX + min(value * scale, plot_px):.1f}" cy="{middle}" r="3.5" fill="{MET}" '
                'fill-opacity="0.6"/>'
                for value in item["rounds"]
            ),
            _text(LABEL_PX + plot_px + 6, top + 15, f"{_short(item['median'])} {item['unit']}"),
        ]
    return _svg(50 + len(lines) * LINE_PX, parts)


def series(title: str, points: Sequence[tuple[float, float]], *, across: str, up: str) -> str:
    """Draw a line through points, such as memory over renders."""
    left, top, plot_width, plot_height = 90, 40, WIDTH_PX - 130, 360
    most_x = max((x for x, _ in points), default=1.0) or 1.0
    most_y = max((y for _, y in points), default=1.0) * 1.1 or 1.0
    path = " ".join(
        f"{left + x / most_x * plot_width:.1f},{top + plot_height - y / most_y * plot_height:.1f}" for x, y in points
    )
    step = 10 ** math.floor(math.log10(most_y))
    marks = [step * number for number in range(int(most_y / step) + 1)]
    parts = [
        _text(left, 24, title),
        f'<polyline points="{path}" fill="none" stroke="{MET}" stroke-width="1.5"/>',
        *(
            f'<line x1="{left}" x2="{left + plot_width}" y1="{top + plot_height - mark / most_y * plot_height:.1f}" '
            f'y2="{top + plot_height - mark / most_y * plot_height:.1f}" stroke="{FAINT}"/>'
            + _text(left - 6, top + plot_height - mark / most_y * plot_height + 4, _short(mark), anchor="end")
            for mark in marks
        ),
        _text(left + plot_width, top + plot_height + 22, f"{across}, up to {_short(most_x)}", anchor="end"),
        _text(left - 80, 24, up),
    ]
    return _svg(top + plot_height + 40, parts)


@dataclass(frozen=True, slots=True)
class Panel:
    """A small plot: a title, and named lines of (across, up)."""

    title: str
    lines: dict[str, list[tuple[float, float]]]


def panels(drawn: Sequence[Panel]) -> str:
    """Draw panels, two in a row. A line has the same colour in all of them. Across is logarithmic."""
    width, height, left, top = WIDTH_PX / 2, 320, 50, 40
    names = list(dict.fromkeys(name for panel in drawn for name in panel.lines))
    colours = {name: LINES[number % len(LINES)] for number, name in enumerate(names)}
    parts = [
        _text(left + 150 * number, 20, name, colour=colour) for number, (name, colour) in enumerate(colours.items())
    ]
    for number, panel in enumerate(drawn):
        parts.append(f'<g transform="translate({number % 2 * width:.0f} {top + number // 2 * height})">')
        parts += [*_panel(panel, colours, width - left - 20, height - 70), "</g>"]
    return _svg(top + (len(drawn) + 1) // 2 * height, parts)


def _panel(panel: Panel, colours: dict[str, str], width: float, height: float) -> list[str]:
    points = [(x, y) for line in panel.lines.values() for x, y in line if x > 0 and math.isfinite(x)]
    if not points:
        return []
    low, high = (math.log(pick(x for x, _ in points)) for pick in (min, max))
    least, most = (pick(y for _, y in points) for pick in (min, max))
    left, top = 50, 24

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (math.log(x) - low) / ((high - low) or 1) * width
        return across, top + height - (y - least) / ((most - least) or 1) * height

    parts = [_text(left, 12, panel.title)]
    for tick in range(10 * math.ceil(least / 10), math.floor(most) + 1, 10):
        _, y = place(math.exp(low), tick)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>')
        parts.append(_text(left - 6, y + 4, str(tick), anchor="end"))
    for tick in (digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)):
        if low <= math.log(tick) <= high:
            x, _ = place(tick, least)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + height}" stroke="{FAINT}"/>')
            parts.append(_text(x, top + height + 16, f"{tick:g}", anchor="middle"))
    for name, line in panel.lines.items():
        dots = [place(x, y) for x, y in line if x > 0 and math.isfinite(x)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>' for x, y in dots]
    return parts


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(height_px: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {height_px:.0f}" '
        f'font-family="system-ui, sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
