"""How a study searches: told once, and never again. `Search` is the table `[study]` of a study file, too."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BeforeValidator, PlainValidator
from torch import Tensor

from ...evaluators import FIDELITIES, Evaluator, Latency, Task, Training, checked_evaluator
from ...evaluators.modes import device_named, floating_name, present
from ...evaluators.training.settings import OF_THE_USER
from ...search import SamplerFactory, sampler_factory
from ...spaces import COSTS, Budget, Candidate, Cost, Scores, Space, checked_costs
from ...spaces.checked import AT_LEAST_0, AT_LEAST_1, FINITE, POSITIVE, check, listed, near, one_of
from ..disk.weights import digest, structure

AUTO = "auto"
OBJECTIVES = ("error", *COSTS, "latency_ms")
LADDER, SHARED = EVALUATORS = ("ladder", "shared-weights")
OWN = ("full", "compound", "magnitude")  # seeds that are no pruning methods
DEFAULT = ("full", "compound")
UNTRAINED = "untrained"  # what is expected of a network that is no better than a guess


def _with_error(names: tuple[str, ...]) -> tuple[str, ...]:
    if names and ("error" not in names or len(set(names)) != len(names)):
        raise ValueError(f"expected 'error' and different costs out of {OBJECTIVES[1:]}")
    return names


def _known_seeds(seeds: Any) -> tuple[str | Candidate, ...]:
    from ...pruners import METHODS  # all of them are imported with it

    known = (*OWN, *METHODS)
    listed = (seeds,) if isinstance(seeds, str) else seeds
    if not isinstance(listed, list | tuple):
        raise ValueError(f"expected a list of candidates and of names out of {', '.join(known)}")
    found = tuple(one if isinstance(one, str) else _a_candidate(one) for one in listed)
    unknown = next((one for one in found if isinstance(one, str) and one not in known), None)
    if unknown is not None:
        mend = near(unknown, known) or f"; expected some of {', '.join(known)}"
        raise ValueError(f"seed {unknown!r} is not known{mend}")
    if len(set(found)) != len(found):
        raise ValueError(f"expected a list of different seeds: candidates, and names out of {', '.join(known)}")
    return found


def _a_candidate(value: Any) -> Candidate:
    numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [None]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        raise ValueError(
            f"seed {value!r}: expected a name, or a candidate: a list of whole numbers, the choice on every axis in "
            "the order of the axes, as `secateur trace` lists them"
        )
    return Candidate(numbers)


def _a_sampler(sampler: Any) -> Any:
    if not isinstance(sampler, str) or ":" not in sampler:  # else the name of a factory in a study file
        sampler_factory(sampler)
    return sampler


def _an_evaluator(evaluator: Any) -> Any:
    if callable(evaluator):
        checked_evaluator(evaluator)
    elif evaluator not in (AUTO, *EVALUATORS):
        raise ValueError(f"expected one of {', '.join((AUTO, *EVALUATORS))}, or your own")
    return evaluator


def _scores(scores: Any) -> Any:
    if scores is not None and not (
        isinstance(scores, Mapping) and all(isinstance(values, Tensor) for values in scores.values())
    ):
        raise ValueError("expected a tensor a group, by the group's name; a study file has none")
    return scores


def _a_device(device: Any) -> str:
    if device == AUTO:
        return AUTO
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise ValueError("expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return str(found)


def _a_place(value: Any) -> Any:
    return str(value) if isinstance(value, os.PathLike) else value


_Names = Annotated[tuple[str, ...], BeforeValidator(listed)]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a study searches; `Study.create` takes it, a study file has it as its table `[study]`.

    Attributes:
        sampler: a name in `search.SAMPLERS` (`"auto"`, `"polynomial"`, `"three-dimensions"`, `"joint"`, `"random"`,
            `"qmc"`, `"tpe"`, `"nsga2"`, `"nsga3"`, `"gp"`), or a factory `(seed, problem) -> Optuna sampler`; in a
            study file its place, `"package.module:name"`.
        objectives: what is minimised: `"error"` and costs; the error and the budget's first cost when empty.
        seeds: what is tried first: `"full"`, `"compound"`, `"magnitude"`, any of `pruners.METHODS`, and candidates of
            your own, which are tried as they are; a list of numbers in a study file.
        scores: which channels stay; the space's own L2 norms when None.
        batch: trials proposed together, each without knowing how the others end.
        evaluator: `"ladder"`, every candidate trained from the full network's weights; `"shared-weights"`, all cut from
            one set of weights that was trained so that its parts are good too; or your own, called like `Ladder`, which
            `Study.open` must be given again. `"auto"` is `"shared-weights"` for the sampler `"joint"`, which needs
            them, and `"ladder"` for all others.
        fidelity: `"zero-shot"` (nothing is built: the share of the ranking that is lost), `"recalibrated"`,
            `"reconstructed"` (layers solved on the full network's answers; nothing is trained), `"short"` or `"long"`:
            how well a candidate is trained before its error counts. `"auto"` is `"recalibrated"` with
            shared weights and `"short"` otherwise.
        max_error: trials above it are on no front and no `patience` waits for them, unless all are. When None, where
            trials are trained and classes guessed: halfway from the full network's error to that of a guess.
        early_stopping: end a trial at a lower fidelity where it is not promising; its error is then predicted.
        seed: of everything random.
        device: where networks are trained and measured: `"cpu"`, `"cuda"`, `"cuda:N"`, or `"auto"`: a GPU where the
            machine that the study is made on has one.
        threads: of PyTorch; 0 for as many as it has now.
        dtype: of the networks, such as `"bfloat16"`; their own when None.
        prior: folder of another study of the same space: other data, another fidelity or budget. When this one is made,
            five networks of that front, within this budget, become seeds, in place of the default `"compound"`.
        costs: of your own (`secateur.Cost`), for budget, objectives and tables; `Study.open` must be given them again.
    """

    sampler: Annotated[str | Callable[..., Any], PlainValidator(_a_sampler)] = AUTO
    objectives: Annotated[_Names, AfterValidator(_with_error)] = ()
    seeds: Annotated[tuple[str | Candidate, ...], PlainValidator(_known_seeds)] = DEFAULT
    scores: Annotated[Scores | None, PlainValidator(_scores)] = None
    batch: Annotated[int, AT_LEAST_1] = 4
    evaluator: Annotated[str | Callable[..., Any], PlainValidator(_an_evaluator)] = AUTO
    fidelity: Annotated[str, AfterValidator(one_of(AUTO, *FIDELITIES))] = AUTO
    max_error: Annotated[float, POSITIVE, FINITE] | None = None
    early_stopping: bool = False
    seed: Annotated[int, AT_LEAST_0] = 0
    device: Annotated[str, PlainValidator(_a_device)] = AUTO
    threads: Annotated[int, AT_LEAST_0] = 0
    dtype: Annotated[str | None, PlainValidator(floating_name)] = None
    prior: Annotated[str | None, BeforeValidator(_a_place)] = None
    costs: Annotated[tuple[Cost, ...], PlainValidator(checked_costs)] = ()

    def __post_init__(self) -> None:
        """Refuse what no study could follow."""
        check(self)
        self.check_objectives([cost.name for cost in self.costs])

    def check_objectives(self, own: Sequence[str]) -> None:
        """Refuse an objective that is neither ours nor among `own`, names of costs of the user's own."""
        known = (*OBJECTIVES, *own)
        if not set(self.objectives) <= set(known):
            raise ValueError(f"objectives={self.objectives!r}: expected 'error' and different costs out of {known[1:]}")

    def resolved(self, budget: Budget) -> Search:
        """This search with nothing left open, as a study keeps it."""
        name, _ = sampler_factory(self.sampler)
        evaluator = self.evaluator
        if isinstance(evaluator, str) and evaluator == AUTO:
            evaluator = SHARED if name == "joint" else LADDER
        usual = "recalibrated" if isinstance(evaluator, str) and evaluator == SHARED else "short"
        return replace(
            self,
            objectives=self.objectives or ("error", next(iter(budget.asked()), "macs")),
            evaluator=evaluator,
            fidelity=usual if self.fidelity == AUTO else self.fidelity,
            threads=self.threads or torch.get_num_threads(),
            device=str(self.torch_device),
        )

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The seeds that are the user's own."""
        return tuple(one for one in self.seeds if not isinstance(one, str))

    @property
    def factory(self) -> SamplerFactory:
        """Makes a sampler."""
        return sampler_factory(self.sampler)[1]

    @property
    def own_evaluator(self) -> Evaluator | None:
        """The user's own; None where it is one of ours."""
        return None if isinstance(self.evaluator, str) else checked_evaluator(self.evaluator)

    @property
    def torch_device(self) -> torch.device:
        """`device`, as PyTorch's."""
        return device_named(self.device)

    @property
    def here(self) -> torch.device:
        """`device`, for work of this process; a ValueError where it is not here."""
        return present(self.device)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """`dtype`, as PyTorch's."""
        found: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values, by field name: names of sampler, evaluator and costs, and no scores."""
        own = {one.name: getattr(self, one.name) for one in fields(Search) if one.name != "scores"}
        names = {"sampler": sampler_factory(self.sampler)[0], "evaluator": evaluator_name(self.evaluator)}
        seeds = [one if isinstance(one, str) else list(one) for one in self.seeds]
        lists = {"objectives": list(self.objectives), "seeds": seeds}
        return own | names | lists | {"costs": {cost.name: cost.of for cost in self.costs}}


def evaluator_name(evaluator: str | Callable[..., Any]) -> str:
    """One of `EVALUATORS` as it is, else the evaluator's `fingerprint` text, else where it is defined."""
    if isinstance(evaluator, str):
        return evaluator
    own = getattr(evaluator, "fingerprint", None)
    if isinstance(own, str):
        return own
    named = evaluator if hasattr(evaluator, "__qualname__") else type(evaluator)
    return f"{named.__module__}.{named.__qualname__}"


def settings_to_json(search: Search, training: Training, latency: Latency) -> dict[str, Any]:
    """What `study.json` keeps of how a study searches, and how its networks are trained and timed."""
    return search.to_json() | {"training": training.to_json(), "latency": asdict(latency)}


def settings_from_json(
    values: Mapping[str, Any], given: Training | None = None, **objects: Any
) -> tuple[Search, Training, Latency]:
    """What `settings_to_json` wrote, here or in an earlier version; a setting that is missing has its default.

    Args:
        values: of `study.json`.
        given: the settings of trainings, where functions of the user's are among them.
        objects: what no file can hold, by field name.

    Raises:
        ValueError: a setting is missing or of no use.
    """
    try:
        own = {one.name: values[one.name] for one in fields(Search) if one.name in values}
        lacking = [name for name in ("objectives", "sampler", "fidelity", "seeds", "batch", "seed") if name not in own]
        if lacking:
            raise KeyError(lacking[0])
        training = _training(values["training"], given)
        return Search(**{"device": "cpu"} | own | objects), training, Latency(**values.get("latency", {}))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the study's settings are damaged ({error}); restore study.json or start a new study"
        ) from error


def _training(kept: Mapping[str, Any], given: Training | None) -> Training:
    """The settings that were kept, with the functions of those that are given."""
    own = [f"{name} is {kept[name]}" for name, known in OF_THE_USER.items() if kept.get(name, known[0]) not in known]
    if own and given is None:
        raise ValueError(
            f"the study's training has a function of yours, its {'; '.join(own)}: give it again, as "
            "Study.open(..., training=sc.Training(...)) with the settings of the start"
        )
    # Studies of before distillation had no teacher.
    names = {name: known[0] for name, known in OF_THE_USER.items() if kept.get(name, known[0]) not in known}
    plain = Training(**{"distillation": 0.0} | dict(kept) | names)
    if given is None:
        return plain
    was, now = plain.to_json() | {name: kept[name] for name in names}, given.to_json()
    other = [f"{name}={now[name]!r} (it was {was[name]!r})" for name in now if now[name] != was[name]]
    if other:
        raise ValueError(f"training differs from the study's: {', '.join(other)}; give the settings of the start")
    return given


def fingerprint(
    base: Mapping[str, Tensor], space: Space, task: Task, search: Search, training: Training, latency: Latency
) -> dict[str, Any]:
    """All that must be the same for a study to go on, part by part; budget, number of trials and runner are not."""
    shapes = json.dumps(structure(base), sort_keys=True).encode()
    return {
        "model": hashlib.sha256(shapes).hexdigest()[:16],
        "weights": digest(base),
        "space": space.fingerprint,
        "ranking": ranking_name(space, search.scores),
        "task": task.fingerprint,
        **settings_to_json(search, training, latency),
        "device": search.torch_device.type,  # which of a machine's GPUs is no matter
    }


def ranking_name(space: Space, scores: Scores | None) -> str:
    """Name and digest of what says which channels stay."""
    return f"l2:{digest(space.default_scores)[:8]}" if scores is None else f"given:{digest(scores)[:8]}"
