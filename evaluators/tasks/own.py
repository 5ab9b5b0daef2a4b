"""A loss, a metric and a place in the outputs that the user gives: taken in the forms that people have them in.

`Own` holds them. Each is checked when it is given, as far as that goes without data.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .batches import mapped
from .learned import number

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Own:
    """What the user gives in place of a task's own; see `Classification`."""

    loss: Callable[[Any, Any], Tensor] | None = None
    metric: Any = None
    maximise: bool | None = None
    output: str | int | Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be called.

        Raises:
            TypeError: a loss or metric of no known form.
            ValueError: nothing says whether a metric is better when it is higher.
        """
        if self.loss is not None:
            if not _takes_two(self.loss):
                raise TypeError(f"loss is {name_of(self.loss)}; expected something called as loss(outputs, targets)")
            if isinstance(self.loss, nn.Module) and any(one.requires_grad for one in self.loss.parameters()):
                raise ValueError(
                    f"loss {_short(self.loss)} has parameters of its own, which nothing would train; keep them in the "
                    "network, or make them buffers"
                )
        if self.metric is None:
            if self.maximise is not None:
                raise ValueError(f"maximise is {self.maximise}, and there is no metric; leave it out")
            return
        error = self.error()
        known = getattr(error.metric, "higher_is_better", None)
        if self.maximise is None and known is None and not hasattr(error.metric, "count"):
            raise ValueError(
                f"metric {_short(self.metric)} does not say whether higher is better; give maximise=True (as for an "
                "accuracy) or maximise=False (an error)"
            )

    @property
    def said(self) -> str:
        """All that a fingerprint depends on, as text; empty where nothing was given."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return "".join(f" {name}={name_of(value)}" for name, value in given.items() if value is not None)

    def picked(self, outputs: Any, fits: Callable[[Tensor], bool]) -> Any:
        """What loss and metric are given of a network's outputs: the one tensor that fits, where nothing else is said.

        Raises:
            TypeError: none fits, or several do, or there is no such output.
        """
        if callable(self.output):
            return self.output(outputs)
        if isinstance(outputs, Tensor):
            return outputs
        parts = _parts(outputs)
        if self.output is not None:
            if self.output not in parts:
                raise TypeError(
                    f"the network returned {_described(outputs, parts)}; there is no output {self.output!r}"
                )
            return parts[self.output]
        found = {name: one for name, one in parts.items() if isinstance(one, Tensor) and fits(one)}
        if len(found) != 1:
            several = (
                f"{' and '.join(map(repr, found))} may be meant" if found else "none is of the shape of the targets"
            )
            raise TypeError(
                f"the network returned {_described(outputs, parts)}; {several}: say which, as "
                f"output={next(iter(parts), 0)!r}, or give a function of the outputs"
            )
        return next(iter(found.values()))

    def loss_of(self, outputs: Any, targets: Any) -> Tensor:
        """The user's loss, a scalar.

        Raises:
            ValueError: it raised something, or gave several numbers.
        """
        assert self.loss is not None
        loss = self.loss
        if isinstance(loss, nn.Module) and isinstance(outputs, Tensor):
            loss.to(outputs.device)
        try:
            value = loss(outputs, targets)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as problem:  # of the user's loss
            text = " ".join(f"{type(problem).__name__}: {problem}".split())
            if "memory" in text:
                raise
            raise ValueError(
                f"loss {_short(loss)} raised {text}, given outputs of {_shape(outputs)} and targets of "
                f"{_shape(targets)}"
            ) from problem
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss {_short(loss)} gave {what}; expected one number, the mean over the batch")
        return value.reshape(())

    def error(self) -> Judge:
        """A fresh error of the user's metric."""
        metric = self.metric
        if isinstance(metric, type) or (callable(metric) and not _takes_two(metric)):
            metric = metric()
        elif callable(getattr(metric, "update", None)):
            metric = copy.deepcopy(metric)
            if callable(getattr(metric, "reset", None)):
                metric.reset()
        if not callable(getattr(metric, "update", None)) or not callable(getattr(metric, "compute", None)):
            if not callable(metric) or isinstance(metric, type) or not _takes_two(metric):
                raise TypeError(
                    f"metric is {name_of(self.metric)}; expected a metric with update(outputs, targets) and compute(), "
                    "such as torchmetrics', a class of one, or a function metric(outputs, targets) of a whole split"
                )
            metric = _Whole(metric)
        higher = self.maximise if self.maximise is not None else getattr(metric, "higher_is_better", None)
        return Judge(metric, maximise=bool(higher), name=_short(self.metric))


class Judge:
    """A metric of the user's as an error: one minus what is better when it is higher."""

    def __init__(self, metric: Any, *, maximise: bool, name: str) -> None:
        """Start at nothing seen; `name` is the metric's."""
        self.metric, self.maximise, self.count = metric, maximise, 0
        self.name = f"1 - {name}" if maximise else name
        self._called = f"{name}()" if isinstance(metric, _Whole) else f"{name}.compute()"

    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch; metrics that have a device are moved to that of the outputs."""
        if not self.count and isinstance(outputs, Tensor) and callable(getattr(self.metric, "to", None)):
            self.metric = self.metric.to(outputs.device)
        self.metric.update(outputs, targets)
        self.count += len(targets)

    def compute(self) -> float:
        """The error over everything seen."""
        value = self.metric.compute()
        if isinstance(value, Mapping) and "map" in value:  # mean average precision, among others of detection
            value = value["map"]
        found = number(self._called, value)
        return 1 - found if self.maximise else found

    def std(self) -> float | None:
        """The standard error, where the metric knows it."""
        std = getattr(self.metric, "std", None)
        spread = std() if callable(std) else None
        return None if spread is None else number(f"{type(self.metric).__name__}.std()", spread)


class _Whole:
    """A function of all outputs and targets of a split, which are kept on the CPU until then."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function, self.seen = function, list[tuple[Any, Any]]()

    def update(self, outputs: Any, targets: Any) -> None:
        self.seen.append(mapped((outputs, targets), lambda tensor: tensor.detach().cpu()))

    def compute(self) -> Any:
        parts = zip(*self.seen, strict=True)
        return self.function(*(sum(one, []) if isinstance(one[0], list) else torch.cat(one) for one in parts))


def name_of(thing: Any) -> str:
    """What a study knows a thing again by: its `fingerprint`, else its name, with settings where it shows them."""
    own = getattr(thing, "fingerprint", None)
    if isinstance(own, str):
        return own
    if isinstance(thing, functools.partial):
        given = [name_of(one) for one in thing.args] + [
            f"{name}={name_of(one)}" for name, one in thing.keywords.items()
        ]
        return f"{name_of(thing.func)}({', '.join(given)})"
    if hasattr(thing, "__qualname__"):
        return f"{thing.__module__}.{thing.__qualname__}"
    if isinstance(thing, _PLAIN):
        return repr(thing)
    kind = type(thing)
    settings = [
        f"{name}={value!r}"
        for name, value in sorted(getattr(thing, "__dict__", {}).items())
        if isinstance(value, _PLAIN) and not name.startswith("_") and name != "training"
    ]
    if isinstance(thing, nn.Module) and (tensors := thing.state_dict()):
        held = b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in tensors.values())
        settings.append(hashlib.sha256(held).hexdigest()[:8])
    said = " ".join(repr(thing).split())
    shown = f" {said}" if " at 0x" not in said and not isinstance(thing, nn.Module) else ""
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(settings)}){shown}"


def _short(thing: Any) -> str:
    return str(getattr(thing, "__name__", type(thing).__name__))


def _takes_two(function: Any) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # compiled functions have no signature
        return True
    return not isinstance(function, type)


def _parts(outputs: Any) -> dict[Any, Any]:
    """What outputs are made of, by name or number."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if hasattr(outputs, "_fields"):
        return {name: getattr(outputs, name) for name in outputs._fields} | dict(enumerate(outputs))
    if isinstance(outputs, tuple | list):
        return dict(enumerate(outputs))
    return dict(getattr(outputs, "__dict__", {}))


def _described(outputs: Any, parts: Mapping[Any, Any]) -> str:
    return f"a {type(outputs).__name__} with {', '.join(map(str, parts)) or 'nothing'}"


def _shape(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
