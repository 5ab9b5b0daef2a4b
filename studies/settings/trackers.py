"""Trackers by name: those that come with the package, and those that other installed packages add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...lazy import Late, Registry

_HERE = "secateur.studies.views.trackers"
TRACKERS: Registry[Callable[[], Any]] = Registry(
    "tracker",
    {
        "tensorboard": Late(_HERE, "TensorBoard"),
        "mlflow": Late(_HERE, "MLflow"),
        "wandb": Late(_HERE, "WeightsAndBiases"),
    },
    group="secateur.trackers",
)


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once; nothing is imported.

    Raises:
        ValueError: one is not known.
    """
    for name in names:
        if name not in TRACKERS:
            TRACKERS.named(name)
    return tuple(dict.fromkeys(names))
