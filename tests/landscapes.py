"""What the tests of searches share: the toys of `secateur.testing`, and settings that make them quick."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from secateur import Search, Training
from secateur.testing.toys import (
    LANDSCAPES,
    Instant,
    TinyNet,
    line_net,
    line_space,
    shares,
    tiny_net,
    tiny_space,
    tiny_task,
)

__all__ = [
    "LANDSCAPES",
    "Instant",
    "TinyNet",
    "line_net",
    "line_space",
    "shares",
    "tiny_net",
    "tiny_space",
    "tiny_task",
]


def searching(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Study.create`: those of `Search` together, for tests that change some and not others."""
    names = {one.name for one in fields(Search)}
    own = {name: value for name, value in given.items() if name in names and value is not None}
    return {name: value for name, value in given.items() if name not in names} | {"search": Search(**own)}


def tiny_training(**changes: int) -> Training:
    return Training(lr=0.05, short_epochs=1, long_epochs=2, recalibration_images=64, **changes)
