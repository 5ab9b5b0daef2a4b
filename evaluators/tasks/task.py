"""What is to be learned: data, loss and error. `Task` is all a study needs; a task may be able to do more.

Each further ability is a protocol of one method. An attribute of such a name that is no method is the task's own
matter; a method that can't be called that way is refused by `check_task`, because it would be a mistake to pass it by
silently. `abilities` finds what there is.

A `Metric` is an error accumulated over a whole split: the share of wrong answers, or one minus an overlap (mIoU, Dice).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat

import numpy as np
import torch
from torch import Tensor, nn

Side = tuple[int, ...]


class Task(Protocol):
    """Data, loss and error of a network. Everything else in Secateur is told about data by these names alone.

    What a task may have beside them: `Rebatches`, `Distills`, `Resizes`, `Stores` and `Splits`.
    """

    @property
    def fingerprint(self) -> str:
        """Changes with the data and with every setting: a study refuses to be resumed with another."""
        ...

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """JSON: what turns raw data into the network's input. It is written beside every exported network."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of examples of each split."""
        ...

    def loader(self, split: str, resolution: Side | None, seed: int | None) -> Iterable[Any]:
        """The batches of "train", "validation" or "test", at a resolution (None: as stored).

        A seed shuffles and augments the training split; None gives it un-augmented, in an order whose beginning
        stands for the whole. The same arguments give the same batches. A length spares a pass that counts them.
        """
        ...

    def forward(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        """Outputs and targets of a batch, which is moved to the model's device. `targets` has the batch's length."""
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The scalar that training lowers."""
        ...

    def error(self) -> Metric:
        """A fresh error to accumulate over a split."""
        ...


class Rebatches(Protocol):
    """A task whose number of examples a batch can be changed; without it, `Training.batch` must be None."""

    def with_batch(self, batch: int) -> Task:
        """The same task with so many examples a batch."""
        ...


class Distills(Protocol):
    """A task whose networks can learn from a teacher; without it, they learn from the data alone."""

    def distill(self, outputs: Any, teacher_outputs: Any, temperature: float) -> Tensor:
        """The scalar by which a network's outputs differ from a teacher's, both softened by the temperature."""
        ...


class Resizes(Protocol):
    """A task that shows a batch at several resolutions; without it, a teacher sees what its student sees."""

    def at(self, batch: Any, resolution: Side | None) -> Any:
        """The batch, augmented alike, as a network of that resolution sees it; None as stored."""
        ...


class Stores(Protocol):
    """A task that gives its training examples in order: a teacher then answers once rather than at every epoch.

    Its batches have `indices`, the places of their examples.
    """

    def stored(self, resolution: Side | None) -> Iterable[Any] | None:
        """All training examples in order, as batches; None where training shows them otherwise."""
        ...


class Splits(Protocol):
    """A task that says how its batches are split where a whole one does not fit into memory.

    Without it, a batch is assumed to be a tree of tensors with its examples along their first axes.
    """

    def split(self, batch: Any, parts: int) -> Iterable[tuple[Any, int]]:
        """The batch in so many parts, or fewer, each with its number of examples."""
        ...


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """The further methods of a task, by name; None for those that it has not."""

    with_batch: Callable[[int], Task] | None
    distill: Callable[[Any, Any, float], Tensor] | None
    at: Callable[[Any, Side | None], Any] | None
    stored: Callable[[Side | None], Iterable[Any] | None] | None
    split: Callable[[Any, int], Iterable[tuple[Any, int]]] | None


_FURTHER = {"with_batch": Rebatches, "distill": Distills, "at": Resizes, "stored": Stores, "split": Splits}


def abilities(task: object) -> Abilities:
    """What a task can do beside what every task does."""
    found = {name: getattr(task, name, None) for name in _FURTHER}
    return Abilities(**{name: method if callable(method) else None for name, method in found.items()})


def check_task(task: object, *names: str) -> None:
    """Refuse what is no task.

    Args:
        task: what was given for one.
        names: the methods that are needed; all of `Task` when there is none, and its attributes too.

    Raises:
        TypeError: a method is missing, or can't be called as `Task` or one of the further protocols says.
    """
    needed = names or ("loader", "forward", "loss", "error")
    wrong = [text for name in needed if (text := _misfit(task, name, Task, needed=True)) is not None]
    wrong += [text for name, kind in _FURTHER.items() if (text := _misfit(task, name, kind, needed=False)) is not None]
    if not names and not wrong:
        kinds = {"fingerprint": (str, "a text"), "preprocessing": (Mapping, "a dict"), "sizes": (Mapping, "a dict")}
        values = {name: getattr(task, name, None) for name in kinds}
        wrong = [
            f"{name} is a {type(values[name]).__name__}, expected {expected}"
            for name, (kind, expected) in kinds.items()
            if not isinstance(values[name], kind)
        ]
        if not wrong and (said := _no_json(values["preprocessing"])):
            wrong = [f"preprocessing is no JSON ({said}): give plain numbers, texts, lists and dicts"]
    if wrong:
        raise TypeError(
            f"task is a {type(task).__name__}; expected a Task such as Classification, but {'; '.join(wrong)} "
            "(secateur.evaluators.Task says what each is)"
        )


def _no_json(values: Any) -> str | None:
    try:
        json.dumps(dict(values))
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _misfit(task: object, name: str, protocol: type, *, needed: bool) -> str | None:
    """What is wrong with a method, in words; None where nothing is."""
    method = getattr(task, name, None)
    asked = list(inspect.signature(getattr(protocol, name)).parameters)[1:]
    form = f"{name}({', '.join(asked)})"
    if not callable(method):
        return None if not needed else f"it has no method {form}"
    try:
        signature = inspect.signature(method)
        signature.bind(*asked)
    except TypeError:
        return f"its {name}{signature} can't be called as {form}{'' if needed else ': change or rename it'}"
    except ValueError:  # compiled functions have no signature
        return None
    return None


class Metric(Protocol):
    """An error that is accumulated batch by batch and read once; lower is better."""

    @property
    def count(self) -> int:
        """Number of examples seen."""
        ...

    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch."""
        ...

    def compute(self) -> float:
        """The error over everything seen: one number, which may be numpy's or a tensor."""
        ...

    def std(self) -> float | None:
        """The standard error of `compute` over the examples seen; None, or no such method, where it is not known."""
        ...


def figures(metric: Metric) -> tuple[float, float | None]:
    """The error and its standard error as plain numbers; None where the metric has no `std`, or it says None.

    Raises:
        TypeError: what the metric gave is no number; the sentence names it.
    """
    std = getattr(metric, "std", None)
    spread = std() if callable(std) else None
    return _number(metric, "compute", metric.compute()), None if spread is None else _number(metric, "std", spread)


def _number(metric: Metric, name: str, value: Any) -> float:
    size = value.numel() if isinstance(value, Tensor) else value.size if isinstance(value, np.ndarray) else 1
    if not isinstance(value, SupportsFloat) or size != 1:
        said = " ".join(repr(value).split())[:60]
        raise TypeError(
            f"the task's error, {type(metric).__name__}.{name}(), gave {said}, a {type(value).__name__}; "
            "expected one number"
        )
    return float(value)


class ErrorRate:
    """Share of examples whose largest output is not the label.

    Its `std` is binomial, with half a wrong and half a right answer added: nothing wrong in a few is no certainty.
    """

    def __init__(self) -> None:
        """Start at nothing seen."""
        self.count = 0
        self._wrong: Tensor | int = 0  # stays on the device until it is read, so that no batch waits for the host

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add `(n, classes)` outputs and `(n,)` labels."""
        self._wrong = self._wrong + (outputs.argmax(1) != targets).sum()
        self.count += len(targets)

    def compute(self) -> float:
        """The share of wrong answers."""
        _refuse_empty(self.count)
        return int(self._wrong) / self.count

    def std(self) -> float:
        """The standard error of the share."""
        _refuse_empty(self.count)
        share = (int(self._wrong) + 0.5) / (self.count + 1)
        return float((share * (1 - share) / self.count) ** 0.5)


class OverlapError:
    """One minus the overlap of segments, averaged over the classes, from sums over the whole split.

    An overlap is no mean over batches: intersections and sizes are summed first, so the batch size changes nothing.
    A class that occurs in neither the masks nor the predictions does not count. `std` is the jackknife over examples.
    """

    def __init__(self, *, classes: int, overlap: str = "iou", ignore: int | None = None) -> None:
        """Start at nothing seen; `overlap` is "iou" or "dice", pixels labelled `ignore` are left out."""
        if overlap not in ("iou", "dice"):
            raise ValueError(f"overlap is {overlap!r}; expected 'iou' or 'dice'")
        self.classes, self.overlap, self.ignore = classes, overlap, ignore
        self._sums: list[Tensor] = []  # a batch: (n, 3, classes) pixels in both, in the prediction, in the mask

    @property
    def count(self) -> int:
        """Number of examples seen."""
        return sum(len(sums) for sums in self._sums)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add `(n, classes, *sides)` outputs and `(n, *sides)` masks."""
        predicted, truth = outputs.argmax(1).flatten(1), targets.flatten(1)
        seen = torch.ones_like(truth, dtype=torch.bool) if self.ignore is None else truth != self.ignore
        both = seen & (predicted == truth)
        sums = [self._pixels(truth, both), self._pixels(predicted, seen), self._pixels(truth, seen)]
        self._sums.append(torch.stack(sums, dim=1))

    def compute(self) -> float:
        """One minus the overlap of all that was seen."""
        _refuse_empty(self.count)
        return float(self._error(torch.cat(self._sums).sum(0, keepdim=True)))

    def std(self) -> float:
        """The jackknife standard error: how much the error moves when one example is left out."""
        _refuse_empty(self.count)
        sums = torch.cat(self._sums)
        if len(sums) < 2:
            return 0.0
        without = self._error(sums.sum(0) - sums)
        return float(((len(sums) - 1) * without.var(correction=0)) ** 0.5)

    def _pixels(self, labels: Tensor, where: Tensor) -> Tensor:
        """`(n, classes)` pixels of each class among those selected."""
        bins = self.classes + 1  # the last one takes what is left out, and is cut off
        labels = torch.where(where, labels.long(), self.classes)
        rows = torch.arange(len(labels), device=labels.device).unsqueeze(1) * bins
        pixels = torch.bincount((labels + rows).flatten(), minlength=len(labels) * bins)
        return pixels.view(len(labels), bins)[:, :-1]

    def _error(self, sums: Tensor) -> Tensor:
        """`(n,)` errors of n sums of `(3, classes)` pixels."""
        both, predicted, truth = sums.double().cpu().unbind(1)
        present = (predicted + truth) > 0
        size = predicted + truth - both if self.overlap == "iou" else (predicted + truth) / 2
        overlap = torch.where(present, both / size.clamp(min=1), 0.0)
        return 1 - overlap.sum(1) / present.sum(1).clamp(min=1)


def _refuse_empty(count: int) -> None:
    if not count:
        raise ValueError("no example was seen, so there is no error; call update first")
