"""Numbers and choices as a report writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..trials import words
from ..trials.trial import Trial

if TYPE_CHECKING:
    from .facts import Facts

UNITS = {
    "macs": "multiply-adds",
    "params": "parameters",
    "param_bytes": "bytes of parameters",
    "activation_bytes": "bytes of activations",
    "peak_bytes": "peak bytes",
    "latency_ms": "milliseconds in eager PyTorch",
    "error": "error",
    "ms": "milliseconds",
}


def unit(cost: str) -> str:
    """What is counted, in words; a cost of the user's own by its name.

    >>> unit("macs"), unit("ort_ms")
    ('multiply-adds', 'ort_ms')
    """
    return UNITS.get(cost, cost)


def percent(share: float | None) -> str:
    """Such as `1.25%`; a dash where there is none.

    >>> percent(0.0125), percent(None)
    ('1.25%', '–')
    """
    return "–" if share is None else words.percent(share)


def number(value: float | None) -> str:
    """Three digits, and a letter for thousands and more; a dash where there is none.

    >>> number(8523968), number(0.1234), number(None)
    ('8.52 M', '0.123', '–')
    """
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 999.5 else words.count(value)


def amount(cost: str, value: float | None) -> str:
    """A cost with its unit.

    >>> amount("peak_bytes", 1126376), amount("ms", 1.234), amount("macs", 8523968)
    ('1.13 MB', '1.23 ms', '8.52 M')
    """
    said = number(value)
    if value is None:
        return said
    if cost.endswith("bytes"):
        return f"{said}B" if " " in said else f"{said} B"
    return f"{said} ms" if cost in ("ms", "latency_ms") else said


def short(text: str, width: int) -> str:
    """The end of a long name: the beginning is what names have in common.

    >>> short("features.denseblock3.denselayer24.conv2", 20)
    '…3.denselayer24.conv2'
    """
    return text if len(text) <= width else f"…{text[-width:]}"


def axis_name(axis: str) -> str:
    """An axis without the beginning that most have in common.

    >>> axis_name("width:layer1.conv1"), axis_name("depth:layer1"), axis_name("resolution")
    ('layer1.conv1', 'blocks of layer1', 'resolution')
    """
    kind, _, name = axis.partition(":")
    return f"blocks of {name}" if kind == "depth" else name or kind


def place(study: Facts, trial: Trial) -> str:
    """Blocks kept of each stage, and the resolution: `layer1 2 of 3, 20x20`."""
    said = []
    for axis, value in zip(study.axes, trial.candidate, strict=True):
        if axis.kind == "depth":
            said.append(f"{axis.name.partition(':')[2]} {value} of {axis.full}")
        elif axis.kind != "width":
            said.append(side(study, value))
    return ", ".join(said)


def side(study: Facts, value: int) -> str:
    """A choice on the resolution axis, such as `28x28`."""
    return "x".join(map(str, study.resolutions[value])) if value < len(study.resolutions) else str(value)
