"""From trials to networks on disk: pick, train to the end, measure the test error once, write.

Each network's training is kept in the study's `exports` folder under the trial and what it was trained with: the state
after every epoch while it runs, then its weights and figures. So nothing is trained or tested twice.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import nn

from ...evaluators import Origin, Reconstructor, Task, Teacher, Training, measure_error, recalibrate, train
from ...evaluators.modes import seed_of
from ...evaluators.tasks.learned import figures as figures_of
from ...pruners import SparseMasks
from ...spaces import Space, verify
from ..disk.artifacts import Artifacts
from ..disk.files import new_folder, read_json, to_json, write_atomic
from ..disk.weights import TrainingCheckpoint, digest, read_tensors, state_of
from ..settings.search import Search
from ..trials.events import Exported, Listener, Network, Trained, Watch
from ..trials.folder import EXPORTS
from ..trials.front import front_table
from ..trials.trial import Trial, best_within
from ..trials.words import percent
from .card import check_notes
from .conversion import Wanted
from .model import record_of, write_model
from .plot import plot_front

logger = logging.getLogger("secateur")

_TOLERANCE = 1e-3  # of a network as it is, in float32 mostly
SPLITS = ("validation", "test")
Side = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """Writes a study's networks; holds what is the same for all of them."""

    study: Path
    model: nn.Module
    space: Space
    artifacts: Artifacts
    task: Task
    search: Search
    training: Training
    teacher: Teacher | None
    fingerprint: Mapping[str, Any]
    limits: Mapping[str, float]
    expected: Mapping[int, float]

    def pick(
        self, trials: Sequence[Trial], front: Sequence[Trial], pick: str | int | Mapping[str, float]
    ) -> list[Trial]:
        """The trials to export.

        Args:
            trials: all of the study.
            front: its front.
            pick: `"best"`, `"all"`, `"knee"`, a number, or absolute limits, of the error too.

        Raises:
            ValueError: none fits.
        """
        if isinstance(pick, str) and pick in ("all", "best", "knee"):
            if not front:
                raise ValueError(
                    "no trial is within the budget, so the front is empty; run more trials or raise the budget"
                )
            return list(front) if pick == "all" else [self._best(front) if pick == "best" else self._knee(front)]
        if isinstance(pick, Mapping) and "error" in pick:
            return [self._cheapest(trials, dict(self.limits) | dict(pick))]
        if isinstance(pick, Mapping):
            fit = [trial for trial in trials if trial.scored and trial.within(pick)]
            if not fit:
                asked = ", ".join(f"{name}={limit:g}" for name, limit in pick.items())
                raise ValueError(f"no trial is within {asked}; run more trials or raise the budget")
            return [self._best(fit)]
        if isinstance(pick, bool) or not isinstance(pick, int):
            raise ValueError(
                f"pick={pick!r}: expected 'best', 'all', 'knee', the number of a trial, a Budget, or {{'error': 0.03}}"
            )
        if not 0 <= pick < len(trials) or not trials[pick].scored:
            raise ValueError(f"pick={pick}: there is no such trial with an error; the study has {len(trials)} trials")
        return [trials[pick]]

    def best_of(self, finalists: Sequence[Trial], epochs: int | None, progress: Listener | None) -> Trial:
        """The one with the lowest validation error after a few rounds of training, which are kept in the study.

        Args:
            finalists: likeliest first.
            epochs: of the last training that follows; `long_epochs` when None.
            progress: called with events.
        """
        say = progress or (lambda event: None)
        left = list(finalists)
        for count, length in rounds(len(left), self.training.short_epochs, self._last(epochs) // 2):
            errors = {}
            for place, trial in enumerate(left[:count]):
                _, figures = self._finished(trial, length, _network(trial, place, count), say, tried=True)
                errors[trial.number] = figures["validation_error"]
            left = sorted(left[:count], key=lambda trial: errors[trial.number])
        return left[0]

    def export(
        self,
        to: Path,
        picked: Sequence[Trial],
        front: Sequence[Trial],
        epochs: int | None,
        progress: Listener | None,
        wanted: Wanted,
        notes: Mapping[str, Any],
    ) -> list[Path]:
        """Train and write the picked trials; returns their folders, in the same order."""
        epochs = self._last(epochs)
        wanted.check()
        check_notes(notes)
        for trial in picked[:1]:
            wanted.rehearse(self.model, self._example(trial), self._said(trial) | dict(notes))
        say = progress or (lambda event: None)
        proofs = {trial.number: self._proof(trial) for trial in picked}
        figures = {
            trial.number: self._finished(trial, epochs, _network(trial, place, len(picked)), say)
            for place, trial in enumerate(picked)
        }
        names = [_name(trial) for trial in picked]
        with new_folder(to) as making:
            for place, (trial, name) in enumerate(zip(picked, names, strict=True)):
                small, found = figures[trial.number]
                verified = write_model(
                    making / name,
                    model=small,
                    full=self.model,
                    example=self._example(trial),
                    cut=self.artifacts.cut(trial.candidate, trial.ranking),
                    record={"proof": proofs[trial.number], **self._record(trial, found, notes)},
                    wanted=wanted,
                )
                network = _network(trial, place, len(picked))
                say(Exported(network=network, folder=str(to / name), verified=verified, figures=found))
            table = _front_csv(
                front_table(front, self.space.axes), {number: found for number, (_, found) in figures.items()}
            )
            table.to_csv(making / "front.csv", index=False)
            plot_front(making / "front.png", table, self.search.objectives)
        return [to / name for name in names]

    def _last(self, epochs: int | None) -> int:
        """Epochs of the last training."""
        epochs = self.training.long_epochs if epochs is None else epochs
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
            raise ValueError(f"finetune_epochs={epochs!r}: expected an integer of at least 0")
        return epochs

    def _best(self, trials: Sequence[Trial]) -> Trial:
        best, lowest = (best_within(trials, self.search.objectives, {}, one) for one in (self.expected, None))
        assert best is not None and lowest is not None  # whoever asks has some
        if best is not lowest:
            said = [
                f"trial {trial.number} (error {percent(trial.measures['error'])}, {percent(expected)} expected)"
                for trial in (best, lowest)
                if (expected := self.expected.get(trial.number)) is not None
            ]
            logger.info("%s is taken: what the other trials say of it counts too", " and not ".join(said))
        return best

    def _knee(self, front: Sequence[Trial]) -> Trial:
        """The trial farthest below the plane through the ends of the front, every objective in spans of the front."""
        values = np.array([trial.values(self.search.objectives) for trial in front])
        span = np.ptp(values, axis=0)
        away = ((values - values.min(axis=0)) / np.where(span > 0, span, 1)).sum(axis=1)
        return front[int(np.argmin(away))]

    def _cheapest(self, trials: Sequence[Trial], limits: Mapping[str, float]) -> Trial:
        """The trial within the limits that has least of the first objective but the error."""
        costs = {name: limit for name, limit in limits.items() if name != "error"}
        fit = [trial for trial in trials if trial.scored and trial.within(costs)]
        good = [trial for trial in fit if trial.measures["error"] <= limits["error"]]
        if not good:
            least = min((trial.measures["error"] for trial in fit), default=None)
            known = "none is within the budget" if least is None else f"the least within the budget is {least:.4g}"
            raise ValueError(f"no trial has an error of at most {limits['error']:g}: {known}; run more trials")
        order = [name for name in (*self.search.objectives, "macs") if name != "error"]
        return min(good, key=lambda trial: (*trial.values(order), trial.number))

    def _finished(
        self, trial: Trial, epochs: int, network: Network, say: Listener, *, tried: bool = False
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The network trained to the end, on the CPU, and its figures; from the study where it was trained before.

        What is there is neither trained nor tested twice. One that is only tried is not tested; the test split is read
        here and nowhere else.
        """
        small = self.artifacts.build(self.model, trial.candidate, trial.ranking, trial.weights)
        folder = self.study / EXPORTS / f"{_name(trial)}-{'tried-' if tried else ''}epochs-{epochs}"
        folder.mkdir(parents=True, exist_ok=True)
        done, weights = folder / "finished.json", folder / "finished.safetensors"
        if done.exists():
            kept = read_json(done)
            small.load_state_dict(read_tensors(weights, kept["weights"]), strict=False)
            figures: dict[str, Any] = kept["figures"]
        else:
            self._train(small, trial, epochs, folder, Watch(say, network))
            splits = ("validation",) if tried else SPLITS
            sparse = {"sparsity": _zeros(small)} if self.training.sparsity else {}
            figures = {
                "epochs": epochs,
                **sparse,
                **errors(small, self.task, self._side(trial), self.search.here, splits),
            }
            tensors = state_of(small)
            write_atomic(weights, save(tensors, metadata={"format": "pt"}))
            write_atomic(done, to_json({"figures": figures, "weights": digest(tensors)}))
            (folder / "state.pt").unlink(missing_ok=True)
            small.cpu()
        say(Trained(network=network, figures=figures))
        return small, figures

    def _train(self, small: nn.Module, trial: Trial, epochs: int, folder: Path, watch: Watch) -> None:
        """Train a network in place; a killed training goes on from what `folder` keeps after every epoch."""
        side, device = self._side(trial), self.search.here
        images = self.training.recalibration_images
        if trial.fidelity == "reconstructed":
            scores = self.artifacts.scores_of(trial.ranking)
            origin = Origin(model=self.model, space=self.space, candidate=trial.candidate, scores=scores)
            self._reconstructor(small.to(device), origin)
        else:
            recalibrate(small, self.task, images=images, resolution=side, device=device)
        checkpoint, training = TrainingCheckpoint(folder / "state.pt"), self.training
        callbacks: list[object] = [checkpoint, watch]
        if training.sparsity:
            if not epochs:
                raise ValueError(f"sparsity={training.sparsity} is reached while training; give at least one epoch")
            final, initial = training.sparsity, training.initial_sparsity
            callbacks.append(SparseMasks(small, final=final, initial=initial, seed=self.search.seed))
        train(
            small,
            self.task,
            self.training,
            epochs=epochs,
            resolution=side,
            seed=seed_of(self.search.seed, trial.number, 1),
            device=device,
            callbacks=callbacks,
            state=checkpoint.kept(),
            teacher=self.teacher,
        )

    @cached_property
    def _reconstructor(self) -> Reconstructor:
        """Its side of the full network serves all networks of one side."""
        return Reconstructor(self.task, images=self.training.recalibration_images)

    def _side(self, trial: Trial) -> Side | None:
        return self.space.side(trial.candidate) or None

    def _example(self, trial: Trial) -> Any:
        """Inputs with a batch of 2, as the network's forward takes them."""
        return self.space.inputs(self.model, trial.candidate, batch=2)

    def _proof(self, trial: Trial) -> dict[str, Any]:
        """How far the network, before its training, is from the full one without its channels, and what that saw."""
        inputs = self.space.inputs(self.model, trial.candidate, batch=2)
        try:
            found = verify(self.model, self.space, trial.candidate, inputs, self.artifacts.scores_of(trial.ranking))
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            logger.warning("trial %d cannot be compared with the full network: %s", trial.number, error)
            return {"difference": None, "seen": f"it does not run: {error}"}
        if not found <= _TOLERANCE:
            logger.warning(
                "trial %d gives other numbers than the full network without its channels: %s", trial.number, found
            )
        return {"difference": float(found) if math.isfinite(found) else None, "seen": found.seen}

    def _said(self, trial: Trial) -> dict[str, Any]:
        """What config.json says of the candidate and its inputs."""
        return record_of(self.space, trial.candidate) | {"preprocessing": dict(self.task.preprocessing)}

    def _record(self, trial: Trial, found: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
        """What config.json says beyond the cut."""
        found = dict(found)
        sparse = {"sparsity": found.pop("sparsity")} if "sparsity" in found else {}
        errors = {"search_error": trial.error, "search_error_std": trial.error_std, **found}
        own = {
            "study": self.study.name,
            "trial": trial.number,
            **self._said(trial),
            "ranking": trial.ranking,
            "weights": trial.weights,
            "fidelity": trial.fidelity,
            "costs": {name: value for name, value in trial.measures.items() if name != "error"},
            "limits": dict(self.limits),
            **({"over_budget": over} if (over := trial.over(self.limits)) else {}),
            "training": self.training.to_json() | {"epochs": found["epochs"]},
            **_judged(self.task),
            "fingerprint": dict(self.fingerprint),
            **sparse,
        }
        return own | dict(notes) | {"errors": errors | notes.get("errors", {})}


def errors(
    model: nn.Module, task: Task, side: Side | None, device: torch.device, splits: Sequence[str] = SPLITS
) -> dict[str, Any]:
    """Error, its standard error and the number of examples of the validation split, and of the test split if any."""
    found: dict[str, Any] = {}
    for split in (split for split in splits if split == "validation" or task.sizes.get(split)):
        error, std = figures_of(measure_error(model, task, split=split, resolution=side, device=device))
        found |= {
            f"{split}_error": error,
            f"{split}_error_std": std,
            f"{split}_size": task.sizes[split],
        }
    return found


def _zeros(network: nn.Module) -> float:
    """Share of zeros among the weights of two or more axes."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def _judged(task: Task) -> dict[str, str]:
    """What is learned, where the task says it, and what its errors are."""
    kind, metric = getattr(task, "kind", None), task.error()
    name = getattr(metric, "name", None)
    known = {"task": kind} if isinstance(kind, str) else {}
    return known | {"metric": name if isinstance(name, str) else type(metric).__name__}


def _network(trial: Trial, place: int, count: int) -> Network:
    return Network(place=place + 1, networks=count, trial=trial.number, key=trial.candidate.key)


def _name(trial: Trial) -> str:
    return f"trial-{trial.number:04d}-{trial.candidate.key}"


def _front_csv(front: pd.DataFrame, figures: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """The front with the final errors of the networks that were exported."""
    columns = ("validation_error", "test_error", "test_error_std")
    final = {f"final_{name}": [figures.get(number, {}).get(name) for number in front["trial"]] for name in columns}
    return pd.concat([front, pd.DataFrame(final, index=front.index)], axis=1)


def finalists(trials: Sequence[Trial], space: Space, objectives: Sequence[str], count: int) -> list[Trial]:
    """The best trials of every resolution in turn, so many of them or all there are.

    A network that shared weights or a short training serve well at one resolution is predicted well among others of the
    same, and they favour the resolution that the full network was trained at.

    Args:
        trials: with errors, and all within the budget.
        space: knows their resolutions.
        objectives: of the study.
        count: how many.
    """
    places: Counter[tuple[int, ...]] = Counter()
    ranked = []
    for trial in sorted(trials, key=lambda trial: trial.merit(objectives)):
        side = space.side(trial.candidate)
        ranked.append((places[side], trial.merit(objectives), trial))
        places[side] += 1
    return [trial for _, _, trial in sorted(ranked, key=lambda one: one[:2])[:count]]


def rounds(count: int, epochs: int, most: int) -> list[tuple[int, int]]:
    """How many finalists are trained, and for how many epochs, in each of a few rounds.

    Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): the better half of each round is trained anew
    four times as long. What is ahead after one epoch is what learns fast, wide networks at small sides, and some of
    these are behind in the end: so the last ones are compared later, where few are left to pay for.

    Args:
        count: of finalists.
        epochs: of the first round.
        most: rounds longer than that are left out, but the first.
    """
    found: list[tuple[int, int]] = []
    while count > 1 and (not found or epochs <= most):
        found.append((count, epochs))
        count, epochs = (count + 1) // 2, 4 * max(epochs, 1)
    return found
