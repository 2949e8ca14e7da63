"""Small plots as SVG, without a library: bars with their values."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

OURS, OTHERS = "#2f6fde", "#9aa5b1"


def number(value: float) -> str:
    """With as many digits as say something."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def bars(title: str, values: Sequence[tuple[str, float, bool]]) -> str:
    """One bar for each name and value; those that are ours in another colour."""
    widest = max(value for _, value, _ in values) or 1.0
    height = 34 + 26 * len(values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" viewBox="0 0 640 {height}" '
        f'font-family="sans-serif" font-size="13" role="img"><title>{escape(title)}</title>',
        f'<rect width="640" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" fill="#333333">{escape(title)}</text>',
    ]
    for position, (name, value, ours) in enumerate(values):
        top, length = 32 + 26 * position, max(1.0, 400 * value / widest)
        parts.append(
            f'<text x="160" y="{top + 14}" text-anchor="end" fill="#333333">{escape(name)}</text>'
            f'<rect x="168" y="{top}" width="{length:.1f}" height="19" fill="{OURS if ours else OTHERS}"/>'
            f'<text x="{174 + length:.1f}" y="{top + 14}" fill="#333333">{number(value)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
