"""Names of trackers: those that come with the package, and those that other installed packages bring."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

GROUP = "secateur.trackers"  # of the entry points by which a package brings a tracker
SHIPPED = ("tensorboard", "mlflow", "wandb")


def brought_trackers() -> dict[str, EntryPoint]:
    """What installed packages bring, by name; ours keep their names."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in SHIPPED}


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: one is not known.
    """
    known = (*SHIPPED, *brought_trackers())
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(known)}"
            raise ValueError(f"tracker {name!r} is not known; {hint}")
    return tuple(dict.fromkeys(names))
