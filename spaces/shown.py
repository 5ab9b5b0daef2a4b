"""A space as HTML, for the cell of a notebook: the widths as a picture, and all that `describe` says."""

from __future__ import annotations

import html

from .describe import Described, describe

_HIGH, _WIDE = 90, 600  # of the picture, in pixels


def space_html(space: Described) -> str:
    """The groups as bars, full width pale and the least dark, over the text; colours fit light and dark pages."""
    widths = [(group.name, group.width, min(group.widths)) for group in space.groups]
    bars = []
    step = _WIDE / max(len(widths), 12)
    tallest = max((width for _, width, _ in widths), default=1)
    for place, (name, width, least) in enumerate(widths):
        for size, opacity in ((width, 0.3), (least, 1.0)):
            high = _HIGH * size / tallest
            bars.append(
                f'<rect x="{place * step:.1f}" y="{_HIGH - high:.1f}" width="{step * 0.8:.1f}" height="{high:.1f}" '
                f'fill="#3f87c6" fill-opacity="{opacity}"><title>{html.escape(name)}: {least} to {width} channels'
                "</title></rect>"
            )
    stages = sum(len(stage.order) for stage in space.stages)
    sides = ", ".join("x".join(map(str, side)) for side in space.resolutions) or "one"
    said = f"{len(widths)} groups of channels, {stages} blocks that may be dropped, resolutions: {sides}"
    picture = f'<svg viewBox="0 0 {_WIDE} {_HIGH}" style="max-width:{_WIDE}px;width:100%">{"".join(bars)}</svg>'
    return (
        f"<div><b>Space</b>: {said}<br>{picture if bars else ''}<details><summary>widths, blocks, what stays whole, "
        f"costs</summary><pre>{html.escape(describe(space))}</pre></details></div>"
    )
