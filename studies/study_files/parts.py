"""The parts of a study file, made: the network, the task, the space, the trained base network."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...evaluators import Task, Training, train
from ...evaluators.modes import present, reproducible
from ...pruners import Examples, block_damages
from ...search import SamplerFactory
from ...spaces import Cost, Space, copied
from ..disk.process_state import importable
from ..disk.weights import TrainingCheckpoint
from ..settings.search import Search
from ..trials.events import Listener, Watch
from ..trials.words import reason_of
from .checkpoints import load_checkpoint
from .data import NAMED, Data
from .file import READY, OwnCost, StudyFile

_code = logging.getLogger("secateur.code")  # silent with --trust

BASE_STATE = "base.pt"  # the training of the base network, after every epoch


def make_model(file: StudyFile) -> nn.Module:
    """The file's full network, in eval mode, with its checkpoint if there is one; seeded where it is random."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(file.study.seed)
        model = _call(file, "model", file.model.factory, file.model.arguments)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model factory {file.model.factory} gave a {type(model).__name__}; expected a torch.nn.Module")
    if file.model.checkpoint is not None:
        load_checkpoint(model, file.path(file.model.checkpoint))
    return model.eval()


def make_parts(file: StudyFile) -> tuple[nn.Module, Task]:
    """The file's network and its task; that there are data is seen before anything is imported.

    Raises:
        ValueError: it has no data, or none that can be made.
    """
    _data(file)
    return make_model(file), make_task(file, trained=file.model.checkpoint is not None)


def _data(file: StudyFile) -> Any:
    if file.data is None:
        raise ValueError('the table [data] is missing; give one, such as [data] reader = "mnist5k"')
    return file.data


def make_task(file: StudyFile, *, trained: bool = False) -> Task:
    """The file's data as a task; `trained` as of `Data.task`.

    Raises:
        ValueError: it has none, or none that can be made.
    """
    data = _data(file)
    if isinstance(data, Data):
        path = data.path if data.path is None else file.path(data.path)
        lists: dict[str, Any] = {
            name: str(file.path(one))
            for name, one in (("validation", data.validation), ("test", data.test))
            if isinstance(one, str)
        }
        return dataclasses.replace(data, path=path, **lists, **_own(file, data)).task(trained=trained)
    task: Task = _call(file, "data", data.factory, data.arguments)
    missing = [name for name in _TASK if not hasattr(task, name)]
    if missing:
        raise TypeError(
            f"data factory {data.factory} gave a {type(task).__name__} without {', '.join(missing)}; expected a Task"
        )
    return task


def _own(file: StudyFile, data: Data) -> dict[str, Any]:
    """The loss, metric and transform that the file names; of a class of losses or transforms one that is made."""
    found = {name: getattr(data, name) for name in NAMED}
    things = {name: named(file, f"data {name}", one) for name, one in found.items() if isinstance(one, str)}
    return {name: thing() if isinstance(thing, type) and name != "metric" else thing for name, thing in things.items()}


def training_of(file: StudyFile) -> Training:
    """The file's settings of trainings, with the functions that they name."""
    given = {name: getattr(file.training, name) for name in ("optimizer", "schedule")}
    own = {name: named(file, name, one) for name, one in given.items() if isinstance(one, str) and ":" in one}
    return dataclasses.replace(file.training, **own) if own else file.training


def search_of(file: StudyFile) -> Search:
    """How the file searches, with its own costs and the sampler that it names."""
    given: dict[str, Any] = {one.name: getattr(file.study, one.name) for one in dataclasses.fields(Search)}
    if file.study.prior is not None:
        given["prior"] = str(file.path(file.study.prior))
    return Search(**given | {"sampler": sampler_of(file), "costs": costs_of(file)})


def sampler_of(file: StudyFile) -> str | SamplerFactory:
    """The sampler of the file: its name, or the user's factory.

    Raises:
        ValueError: the factory can't be had, or does not take what it is called with.
    """
    name = file.study.sampler
    if not isinstance(name, str) or ":" not in name:
        return name
    factory: SamplerFactory = named(file, "sampler", name)
    try:
        inspect.signature(factory).bind(0, None)
    except TypeError as error:
        raise ValueError(
            f"sampler factory {name} does not take (seed, problem), which it is called with: {error}"
        ) from None
    except ValueError:
        pass  # a factory without a signature, written in C
    return factory


def costs_of(file: StudyFile) -> tuple[Cost, ...]:
    """The file's own costs, with the functions that it names."""
    return tuple(_cost(file, name, one) for name, one in file.costs.items())


def _cost(file: StudyFile, name: str, asked: OwnCost) -> Cost:
    ready, given = asked.measure in READY, dict(asked.arguments)
    if asked.measure == "table" and isinstance(given.get("path"), str):
        given["path"] = str(file.path(given["path"]))
    place = f"{__name__.partition('.')[0]}:{READY[asked.measure]}" if ready else asked.measure
    made = _call(file, f"cost {name}", place, given) if ready or given else named(file, f"cost {name}", place)
    return Cost(name, measure=made, of=asked.of)


_TASK = ("fingerprint", "preprocessing", "sizes", "loader", "forward", "loss", "error")


def _call(file: StudyFile, what: str, name: str, arguments: Mapping[str, Any]) -> Any:
    factory = named(file, what, name)
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{what} factory {name} does not take the arguments {dict(arguments)}: {error}") from None
    except ValueError:
        pass  # a factory without a signature, written in C
    try:
        return factory(**arguments)
    except (Exception, SystemExit) as error:  # of the user's code
        raise ValueError(f"{what} factory {name} raised {_raised(error, file.folder)}") from error


def named(file: StudyFile, what: str, name: str) -> Any:
    """What `package.module:name` names, installed or in the file's folder."""
    importable(file.folder)
    module, _, attribute = name.partition(":")
    _say(what, module)
    try:
        thing = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"{what} factory {name}: {module} needs {error.name}, which is not installed") from error
        raise ValueError(
            f"{what} factory {name}: there is no module {error.name!r}, neither installed nor in {file.folder}; "
            "where the code of a study has moved, --base says where to"
        ) from None
    except (Exception, SystemExit) as error:  # of the user's code
        said = _raised(error, file.folder)
        raise ValueError(f"{what} factory {name}: {module} can't be imported, it raised {said}") from error
    for part in attribute.split("."):
        if not hasattr(thing, part):
            raise ValueError(f"{what} factory {name}: {module} has no {attribute!r}")
        thing = getattr(thing, part)
    if not callable(thing):
        raise TypeError(f"{what} factory {name} is a {type(thing).__name__}; expected something to call")
    return thing


def _say(what: str, module: str) -> None:
    """Say whose code is about to be run, and where it lies; that of secateur itself is no news."""
    package = module.partition(".")[0]
    if package == __name__.partition(".")[0]:
        return
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # a module that something put there by hand
        found = None
    places = [] if found is None else [found.origin, *(found.submodule_search_locations or ())]
    place = next((one for one in places if one), None)
    if place is not None and (package, place) not in _SAID:
        _SAID.add((package, place))
        _code.info("runs the code of %s, as the study file says of its %s: %s", package, what, place)


_SAID: set[tuple[str, str]] = set()  # once in a process


def _raised(error: BaseException, folder: Path) -> str:
    """An error of the user's code, and where in it."""
    said = reason_of(error)[:300]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    if isinstance(error, SyntaxError) or not own:  # its text says where
        return said
    return f"{said} ({Path(own[-1].filename).name}, line {own[-1].lineno})"


def traced(file: StudyFile, model: nn.Module, task: Task) -> Space:
    """The space of the network, as the file's table says."""
    space = spaced(file, model, example_inputs(model, task))
    if not space.stages or file.space.block_order == "last-first":
        return space
    batches, seen = list[Any](), 0
    for batch in task.loader("train", space.side(space.full) or None, None):
        batches.append(batch)
        seen += len(batch.targets) if hasattr(batch, "targets") else 1
        if seen >= file.training.pruning_images:
            break
    return space.with_block_order(block_damages(model, space, Examples(batches=batches, forward=task.forward)))


def spaced(file: StudyFile, model: nn.Module, examples: Any) -> Space:
    """The space as the file's table says, blocks last first, of the network with these example inputs."""
    options = file.space.model_dump(exclude={"block_order"})
    return Space.trace(model, examples, **options)


def example_inputs(model: nn.Module, task: Task) -> tuple[Tensor, ...] | dict[str, Tensor]:
    """One example of what `task` feeds to `model`: a tuple where it goes by position, a dict where it goes by name.

    Raises:
        ValueError: the model and the data do not fit together.
    """
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))

    probe = copied(model).eval()
    probe.register_forward_pre_hook(keep, with_kwargs=True)
    batch = next(iter(task.loader("train", None, None)))
    try:
        with torch.no_grad():
            task.forward(probe, batch)
    except Exception as error:  # of the user's forward
        said = " ".join(f"{type(error).__name__}: {error}".strip().split("\n", 1)[0].split())
        raise ValueError(f"the model does not take the data{_given(seen)}: {said}") from error
    if not seen:
        raise ValueError(
            "the task's forward does not call the model; it should call it once with the inputs of a batch"
        )
    args, kwargs = seen[0]
    if args and kwargs:
        raise ValueError("the task calls the model with inputs by position and by name; give all of them one way")
    return {name: value[:1].clone() for name, value in kwargs.items()} or tuple(value[:1].clone() for value in args)


def _given(seen: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> str:
    """The shapes that the model was called with, if it was."""
    values = [value for args, kwargs in seen[:1] for value in (*args, *kwargs.values())]
    shapes = [str(tuple(value.shape)) for value in values if isinstance(value, Tensor)]
    return f" of shape {', '.join(shapes)}" if shapes else ""


def train_base(
    file: StudyFile, model: nn.Module, task: Task, space: Space, part: Path, progress: Listener | None
) -> None:
    """Train the network in place as the file says; `part` keeps the state after every epoch."""
    training, side = training_of(file), space.side(space.full) or None
    checkpoint = TrainingCheckpoint(part / BASE_STATE)
    state = checkpoint.kept()
    watch = Watch(progress, "base network")
    device = present(file.study.device)
    with reproducible(file.study.threads or torch.get_num_threads(), device):
        train(
            model,
            task,
            training.from_scratch(),
            epochs=training.base_epochs,
            resolution=side,
            seed=file.study.seed,
            device=device,
            callbacks=(checkpoint, watch),
            state=state,
        )
    model.cpu().eval()
