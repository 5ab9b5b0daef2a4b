"""What another study of the same space found, for a search to begin with; see `Search.prior`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...search import non_dominated
from ...spaces import Axis, Candidate, Space
from ..disk.files import as_written
from ..settings.search import DEFAULT, Search
from ..trials.folder import axes_of, described_storage, read_study_json
from ..trials.ledger import Ledger, Retry
from ..trials.looking import Glimpse
from ..trials.trial import Trial
from ..trials.urls import is_server

_SPREAD = 5  # networks of the other front that are tried, the largest and the smallest among them
_RETRY_S = 10.0


def with_prior(search: Search, place: str, space: Space, limits: Mapping[str, float]) -> Search:
    """The search with networks of another study's front, within these limits, among its seeds.

    They are tried in place of the networks that the usual seeds scale alike, and after seeds of the user's own.

    Args:
        search: of the new study.
        place: the other study's folder, which is only looked at.
        space: of the new study.
        limits: of the new study, absolute; those on what is measured say nothing here.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: it is damaged, it searched another space, or no evaluated trial is within the limits.
    """
    trials = _scored(Path(place), space)
    cost = next((name for name in search.objectives if name in space.full_costs), "macs")
    found = seeds_from(trials, space, limits, cost)
    if not found:
        raise ValueError(
            f"prior={place!r}: none of its {len(trials)} evaluated trials is within {_said(limits)}; give a study of "
            "smaller networks, raise the budget, or leave the prior out"
        )
    own: Sequence[str | Candidate] = ("full",) if search.seeds == DEFAULT else search.seeds
    return replace(search, seeds=tuple(dict.fromkeys([*own, *found])))


def seeds_from(trials: Sequence[Trial], space: Space, limits: Mapping[str, float], cost: str) -> list[Candidate]:
    """Of the front of these trials within the limits, some spread evenly along it, the most expensive first."""
    encoded = space.encode([trial.candidate for trial in trials])
    costs = {name: np.asarray(column, float) for name, column in space.cost_table(encoded).items()}
    inside = np.ones(len(trials), bool)
    for name in costs.keys() & limits.keys():
        inside &= costs[name] <= limits[name]
    if not inside.any():
        return []
    points = np.stack([np.array([trial.error for trial in trials], float), costs[cost]], axis=1)
    rows = np.flatnonzero(inside)
    rows = rows[non_dominated(points[rows])]
    rows = rows[np.argsort(-points[rows, 1], kind="stable")]
    spread = np.unique(np.linspace(0, len(rows) - 1, _SPREAD).round().astype(int))
    return [space.canonical(trials[row].candidate) for row in rows[spread]]


def _scored(path: Path, space: Space) -> list[Trial]:
    """The evaluated trials of a study of this space."""
    try:
        described = read_study_json(path, to_write=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"prior: {error}") from None
    said = described_storage(path, described["storage"])
    if described["storage"] is not None and is_server(described["storage"]):
        raise ValueError(
            f"prior={str(path)!r} keeps its trials in {said}, and a prior is read from a folder alone; give a study "
            "whose trials are in its folder or in a file, or its best networks as `seeds`"
        )
    with as_written(path):
        axes = axes_of(described)
        if differs := _other(axes, space.axes):
            raise ValueError(f"prior={str(path)!r} is of another space: {differs}; expected the same axes and choices")
        retry = Retry(said, seconds=_RETRY_S)
        glimpse = Glimpse(path, described, given=None, ask=False)
        ledger = Ledger(glimpse.storage(), described["name"], axes, described["settings"]["objectives"], retry=retry)
        found = [trial for trial in ledger.trials if trial.scored and trial.told]
    if not found:
        raise ValueError(f"prior={str(path)!r} has no evaluated trial; run it first, or leave the prior out")
    return found


def _other(there: Sequence[Axis], here: Sequence[Axis]) -> str:
    """How the axes of a study differ from these; empty where they do not."""
    for one, own in zip(there, here, strict=False):
        if one.name != own.name:
            return f"it has the axis {one.name} where this one has {own.name}"
        if one.choices != own.choices or one.sides != own.sides:
            return f"{own.name} is one of {_few(one)} there, of {_few(own)} here"
    return "" if len(there) == len(here) else f"it has {len(there)} axes, this one {len(here)}"


def _few(axis: Axis) -> str:
    shown = [str(axis.shown(choice)) for choice in axis.choices]
    return ", ".join(shown if len(shown) < 7 else [*shown[:3], "...", shown[-1]])


def _said(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={limit:,.0f}" for name, limit in limits.items()) or "the budget"
