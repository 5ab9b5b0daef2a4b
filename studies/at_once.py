"""A smaller network in one call, without labels, training or a study. Start at `prune`; `prune_file` writes it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn

from ..evaluators import Latency, Reconstruction, measure_latencies, reconstruct
from ..evaluators.modes import modes_restored
from ..pruners import Examples, Method, Pruner, Request, block_damages, check_method
from ..spaces import Budget, Candidate, Scores, Space, build, copied, device_of, mean_side, verify
from .disk.weights import read_tensors
from .exports.model import save
from .proposals.pruning import method_named, settings_of
from .study_files.file import StudyFile
from .study_files.parts import make_model, spaced
from .trials.events import Listener, Step
from .trials.folder import BASE, read_study_json
from .views.progress import Asked, showing

_LOOKED_AT = 8  # batches that a method sees
_DIFFERENCE = 1e-3  # relative, of a network in float32 that was built rightly
_FEWEST = 2  # pictures: one to solve on, one to judge
_TIMING = Latency(repeats=12, warmup=2)
_STEPS = ("read", "trace", "choose", "cut, verify", "reconstruct", "time")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """A smaller network, and how it came about.

    Attributes:
        network: of the user's own class, in eval mode.
        space: what was there to choose.
        candidate: what was chosen.
        scores: which channels stay.
        costs: of the network, by name; `latency_ms` is measured, one example, beside the full network.
        full_costs: of the full one.
        difference: of the network as it was cut from the full one without its channels: rounding.
        reconstruction: what was solved, and how near it comes to the full network.
        seconds: of every step.
    """

    network: nn.Module = field(repr=False)
    space: Space = field(repr=False)
    candidate: Candidate
    scores: Scores | None = field(repr=False)
    costs: Mapping[str, float]
    full_costs: Mapping[str, float]
    difference: float
    reconstruction: Reconstruction
    seconds: Mapping[str, float]

    @property
    def widths(self) -> dict[str, int]:
        """What was chosen on every axis, by its name."""
        return {axis.name: value for axis, value in zip(self.space.axes, self.candidate, strict=True)}

    @property
    def record(self) -> dict[str, Any]:
        """What was done, as JSON: widths, costs, agreement with the full network, what was solved, seconds."""
        return {
            "widths": self.widths,
            "costs": dict(self.costs),
            "full_costs": dict(self.full_costs),
            "difference": self.difference,
            "reconstruction": _finite(asdict(self.reconstruction))
            | {"agreement_interval": self.reconstruction.agreement_interval},
            "seconds": dict(self.seconds),
        }

    def __str__(self) -> str:
        """In a few lines."""
        shares = (f"{name} {value / self.full_costs[name]:.1%}" for name, value in self.costs.items())
        took = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        return "\n".join([f"{', '.join(shares)} of the full network", str(self.reconstruction), took])


class Shape(TypedDict, total=False):
    """What the smaller network is like, beside its widths.

    Attributes:
        depth: share of the blocks that stay, of those that may go (1); they go in the order of their damage on the
            pictures (`pruners.block_damages`), or of a space that is given.
        resolution: side of the pictures that the smaller network takes, shorter than that of those given, which are
            scaled to it; it is to answer as the full network does to the pictures as given. A space that is given has
            it among its resolutions. None: the side of the pictures.
    """

    depth: float
    resolution: int | Sequence[int] | None


@showing
def prune(
    model: nn.Module,
    images: Tensor | Iterable[Any],
    *,
    budget: Budget,
    method: str | Method = "l2",
    settings: Mapping[str, Any] | None = None,
    space: Space | None = None,
    most: int = 1024,
    distill: int = 0,
    progress: Asked = "auto",
    **shape: Unpack[Shape],
) -> Pruned:
    """A network within the budget, cut from `model`, which is left as it is, and reconstructed.

    Traces, asks the method which channels stay, cuts, verifies the cut, and solves the layers again: `reconstruct`.

    Args:
        model: a trained network.
        images: `sc.Images(folder)`; `(n, c, *sides)` pictures, or batches of them, as the network takes them: a batch
            is a tensor, a tuple or list whose first tensor is that (labels behind it are not read), or a dict of
            inputs by name.
        budget: what the network may cost, by arithmetic: no latency.
        method: name of a method that needs no labels and does not train, or one of the user's.
        settings: of a method that is given by name, such as `{"allocation": "knapsack"}`.
        space: of `model`; traced with the first picture when None.
        most: pictures that are used, where there are more.
        distill: steps of training on the full network's answers that follow.
        progress: called with a `Step` before each; a bar in terminals and notebooks when "auto", nothing when None.
        shape: `depth`, `resolution`: see `Shape`.

    Raises:
        ValueError: the budget can't be met or limits nothing, the method needs labels, a picture is off, or the built
            network gives other numbers than the full one without its channels.
    """
    pruner = _pruner(method, settings, budget)
    depth, resolution = _shape(**shape)
    clock = _Clock(progress if callable(progress) else None)
    batches = _held(model, images, most)
    example = _first(batches[0])
    clock("trace")
    examples = Examples(batches=[(batch, torch.zeros(0)) for batch in batches[:_LOOKED_AT]])
    if space is None:
        rules = {"*": {"depth": False}} if depth == 1 else None
        space = Space.trace(model, example, resolutions=_sides(example, resolution), rules=rules)
        if space.stages:
            space = space.with_block_order(block_damages(model, space, examples))
    limits = budget.limits(space)
    space.check_limits(limits)
    clock("choose")
    seen = examples if pruner.needs == "images" else None
    share = _share(space, resolution)
    proposal = pruner.propose(Request(copied(model), space, limits, examples=seen, depth=depth, resolution=share))
    candidate, scores = space.canonical(proposal.candidate), proposal.scores
    space.check_within(candidate, limits)
    clock("cut, verify")
    difference = float(verify(model, space, candidate, example, scores))
    if difference > _DIFFERENCE:
        raise ValueError(
            f"the smaller network is off by {difference:.2g} from the full one without its channels; name what was "
            "followed wrongly in `ignore` of Space.trace, and give that space"
        )
    small = build(model, space, candidate, scores).to(device_of(model)).eval()
    if proposal.weights is not None:
        small.load_state_dict(proposal.weights)
    clock("reconstruct")
    asked: dict[str, Any] = {"model": model, "images": batches, "most": most, "distill": distill}
    found = reconstruct(small, space=space, candidate=candidate, scores=scores, **asked)
    clock("time")
    costs = {name: float(column[0]) for name, column in space.cost_table([candidate]).items()}
    timed = measure_latencies([space.call(small, candidate), space.call(model, space.full)], _TIMING)
    return Pruned(
        network=small,
        space=space,
        candidate=candidate,
        scores=scores,
        costs=costs | {"latency_ms": timed[0].ms},
        full_costs=space.full_costs | {"latency_ms": timed[1].ms},
        difference=difference,
        reconstruction=found,
        seconds=clock.end(),
    )


def prune_file(
    file: StudyFile,
    out: Path,
    *,
    method: str = "l2",
    settings: Mapping[str, Any] | None = None,
    study: Path | None = None,
    most: int = 1024,
    distill: int = 0,
    trust: bool = False,
    progress: Listener | None = None,
    **shape: Unpack[Shape],
) -> Path:
    """The folder of the network that `prune` makes of a file's network with the pictures that it names, written.

    Args:
        file: whose model, space, budget and images count; it needs no data.
        out: a new folder.
        method: name of a method.
        settings: of it.
        study: a study's folder, whose base network is taken as it is.
        most: as of `prune`.
        distill: as of `prune`.
        trust: go on where the pictures seem to be of another kind than those that the network was trained on.
        progress: called with events.
        shape: as of `prune`.

    Raises:
        FileExistsError: `out` exists.
        ValueError: as of `prune`; the network is to be trained first, or the pictures are doubted.
    """
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists already; remove it or choose another folder")
    if file.images is None:
        raise ValueError("there are no pictures; give --images FOLDER, or a table [images] with a path")
    images = replace(file.images, path=None if file.images.path is None else file.path(file.images.path))
    pruner = _pruner(method, settings, file.budget)
    if study is None and file.model.train:
        raise ValueError("[model] train = true: nothing is trained here; give a checkpoint, or the folder of a study")
    model = make_model(file.without_weights() if study is not None else file)
    if study is not None:
        kept = read_tensors(study / BASE, read_study_json(study, to_write=False)["fingerprint"]["weights"])
        model.load_state_dict(kept, strict=False)
    batches = _held(model, images, most)
    space = _space_of(file, model, batches, **shape)
    asked: dict[str, Any] = {"most": most, "distill": distill, "progress": progress}
    found = prune(model, batches, budget=file.budget, method=pruner, space=space, **asked, **shape)
    if found.reconstruction.strange and not trust:
        said = "; ".join(found.reconstruction.strange)
        raise ValueError(f"{said}; or, if they are right, add --trust-images")
    notes = found.record | {
        "method": pruner.name,
        "settings": settings_of(pruner),
        "agreement": found.reconstruction.agreement,
        "preprocessing": images.preprocessing,
        "study": out.name,
        "errors": {},
    }
    save(out, found.network, model=model, space=space, candidate=found.candidate, scores=found.scores, notes=notes)
    return out


def _first(batch: Any) -> Any:
    """The batch of its first example."""
    return {name: one[:1] for name, one in batch.items()} if isinstance(batch, Mapping) else batch[:1]


def _shape(depth: float = 1.0, resolution: int | Sequence[int] | None = None) -> tuple[float, Any]:
    """The share of the blocks and the side, where they are such."""
    if not 0 <= depth <= 1:
        raise ValueError(f"depth={depth!r}: expected a share of the blocks, from 0 to 1")
    return depth, resolution


def _space_of(file: StudyFile, model: nn.Module, batches: Sequence[Any], **shape: Unpack[Shape]) -> Space:
    """The space of a file's network as the file says, blocks in the order of their damage."""
    depth, resolution = _shape(**shape)
    changes: dict[str, Any] = {}
    if depth == 1 and not file.space.rules:
        changes["rules"] = {"*": {"depth": False}}
    if sides := _sides(batches[0], resolution):
        changes["resolutions"] = tuple(sides)
    file = file.model_copy(update={"space": file.space.model_copy(update=changes)})
    space = spaced(file, model, batches[0][:1])
    examples = Examples(batches=[(batch, torch.zeros(0)) for batch in batches[:_LOOKED_AT]])
    return space.with_block_order(block_damages(model, space, examples)) if space.stages else space


def _sides(example: Any, resolution: int | Sequence[int] | None) -> list[Sequence[int]]:
    """That of the smaller network and that of the pictures, to trace with; none where they are one."""
    if resolution is None:
        return []
    if not isinstance(example, Tensor) or example.ndim < 3:
        what = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"resolution is given, but a picture is {what}; expected (n, channels, *sides)")
    own = tuple(example.shape[2:])
    side = (resolution,) * len(own) if isinstance(resolution, int) else tuple(resolution)
    if len(side) != len(own) or any(not 0 < new <= old for new, old in zip(side, own, strict=True)):
        raise ValueError(f"resolution is {resolution}; expected at most the pictures' {own}, and at least 1")
    return [side, own] if side != own else []


def _share(space: Space, resolution: int | Sequence[int] | None) -> float:
    """The ratio of the full side that stands for a resolution of the space."""
    if resolution is None:
        return 1.0
    full = space.side(space.full)
    side = (resolution,) * len(full) if isinstance(resolution, int) else tuple(resolution)
    if side not in (space.resolutions or (full,)):
        raise ValueError(
            f"resolution is {resolution}; the space that is given has {space.resolutions or full}: trace it with "
            f"resolutions=({', '.join(map(str, (side[0], full[0])))})"
        )
    return mean_side(side) / mean_side(full)


def _finite(value: Any) -> Any:
    """The value with None for what JSON does not know, such as the ridge of a layer whose bias alone changed."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pruner(method: str | Method, settings: Mapping[str, Any] | None, budget: Budget) -> Pruner:
    """The method, if it and the budget are what can be done with pictures alone."""
    budget.check()
    if not budget.asked() or budget.latency_ms is not None:
        given = "there is no limit" if budget.latency_ms is None else f"latency_ms={budget.latency_ms:g} is measured"
        raise ValueError(
            f"budget: {given}; expected some that arithmetic knows, such as macs=0.7: milliseconds are for searches, "
            "and for `secateur prune` with labels"
        )
    pruner = method_named(method, settings) if isinstance(method, str) else check_method(method)
    if pruner.needs not in ("nothing", "images"):
        raise ValueError(f"{pruner.name} needs {pruner.needs}, and there are pictures only; take another method, as l2")
    return cast(Pruner, pruner)


def _held(model: nn.Module, images: Tensor | Iterable[Any], most: int) -> Sequence[Any]:
    """The first so many pictures, in batches without labels: they are read once, and used several times.

    Raises:
        ValueError: there are fewer than two, one is not finite, or the network does not take them.
    """
    found, count = list[Any](), 0
    for batch in torch.split(images, 64) if isinstance(images, Tensor) else images:
        inputs = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
        tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
        if not tensors or not all(isinstance(one, Tensor) and one.ndim for one in tensors):
            raise ValueError(
                f"a batch of images is a {type(batch).__name__}; expected a tensor, a tuple or list that begins with "
                "one, or a dict of tensors"
            )
        if not all(bool(one.isfinite().all()) for one in tensors if one.is_floating_point()):
            raise ValueError("images hold NaN or infinite numbers; leave those pictures out")
        if not found:
            _check_taken(model, inputs)
        found.append(inputs)
        count += len(tensors[0])
        if count >= most:
            break
    if count < _FEWEST:
        raise ValueError(
            f"images holds {count or 'no'} picture{'s' * (count != 1)}; give at least {_FEWEST}, better some hundreds"
        )
    return found


def _check_taken(model: nn.Module, inputs: Any) -> None:
    """Raise where a network does not take the first pictures."""
    device = device_of(model)
    with torch.no_grad(), modes_restored(model):
        model.eval()
        try:
            if isinstance(inputs, Mapping):
                model(**{name: one[:2].to(device) for name, one in inputs.items()})
            else:
                model(inputs[:2].to(device))
        except Exception as error:  # of the user's forward
            shapes = [tuple(one.shape[1:]) for one in (inputs.values() if isinstance(inputs, Mapping) else [inputs])]
            said = " ".join(f"{type(error).__name__}: {error}".strip().split("\n", 1)[0].split())[:300]
            raise ValueError(
                f"the network does not take pictures of shape {', '.join(map(str, shapes))} (channels, then sides): "
                f"{said}; give them as it takes them"
            ) from error


class _Clock:
    """Seconds of one step after another, each told as it begins."""

    def __init__(self, progress: Listener | None) -> None:
        self._seconds: dict[str, float] = {}
        self._say: Listener = progress or (lambda event: None)
        self._step, self._since = "", 0.0
        self("read")

    def __call__(self, step: str) -> None:
        self.end()
        self._step = step
        self._say(Step(of="prune", doing=step, done=_STEPS.index(step), total=len(_STEPS)))

    def end(self) -> dict[str, float]:
        """All of them."""
        now = time.perf_counter()
        if self._step:
            self._seconds[self._step] = now - self._since
        self._since = now
        return self._seconds
