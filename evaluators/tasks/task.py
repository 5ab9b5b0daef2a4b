"""What is to be learned: data, loss and error. `Task` is all a study needs; a task may be able to do more.

Each further ability is a protocol of one method. An attribute of such a name that is no method is the task's own
matter; a method that can't be called that way is refused by `check_task`, because it would be a mistake to pass it by
silently. `abilities` finds what there is.

A `Metric` is an error accumulated over a whole split; `learned.py` and `dense.py` have ours, and
`figures`, which reads one.
`Wrapped` is a task that changes another one.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

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


class Wrapped:
    """A task that changes another one: derive from it, and write only what is other.

    Everything else is the inner task's, `at`, `split`, `stored`, `distill` and `with_batch` too, where it has them.

    Attributes:
        task: the inner task.
    """

    def __init__(self, task: Task, change: str) -> None:
        """Keep the inner task; `change` says in words what is other, and is part of the fingerprint."""
        self.task, self._change = task, change

    @property
    def fingerprint(self) -> str:
        """The inner task's, and the change."""
        return f"{self.task.fingerprint}, {self._change}"

    def __getattr__(self, name: str) -> Any:
        """What the inner task has under that name."""
        if name == "task" or name.startswith("__"):  # while it is copied or unpickled
            raise AttributeError(name)
        found = getattr(self.task, name)
        return self._with_batch if name == "with_batch" and callable(found) else found

    def _with_batch(self, batch: int) -> Task:
        other = copy.copy(self)
        other.task = cast("Rebatches", self.task).with_batch(batch)
        return cast("Task", other)
