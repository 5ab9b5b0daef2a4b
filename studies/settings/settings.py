"""What a study is told at the start and never again; kept in `study.json`, one to one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import torch

from ...evaluators import FIDELITIES, Latency, Training
from ...pruners import METHODS
from ...search import SamplerFactory, sampler_factory
from ...spaces import COSTS, Budget
from .determinism import present

OBJECTIVES = ("error", *COSTS, "latency_ms")
LADDER, SHARED = EVALUATORS = ("ladder", "shared-weights")

Evaluator = str | Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a study searches.

    Attributes:
        objectives: names of what is minimised, in order; `"error"` and costs.
        sampler: name of the sampler, or of the factory.
        fidelity: how well a candidate is trained before its error counts.
        early_stopping: whether a trial that is not promising at a lower fidelity is stopped there.
        seeds: names of the candidates that are tried first.
        batch: trials proposed together, each in ignorance of the others' outcomes.
        seed: of everything random.
        device: where networks are trained and measured.
        threads: of PyTorch.
        dtype: of the networks; None for the model's own.
        training: how networks are trained.
        latency: how networks are timed.
    """

    objectives: tuple[str, ...]
    sampler: str
    fidelity: str
    seeds: tuple[str, ...]
    batch: int
    seed: int
    device: str
    threads: int
    dtype: str | None
    training: Training
    early_stopping: bool = False
    latency: Latency = field(default_factory=Latency)

    def __post_init__(self) -> None:
        """Refuse what no study could follow."""
        names = self.objectives
        if "error" not in names or len(set(names)) != len(names) or not set(names) <= set(OBJECTIVES):
            raise ValueError(f"objectives={names!r}: expected 'error' and different costs out of {OBJECTIVES[1:]}")
        if self.fidelity not in FIDELITIES:
            raise ValueError(f"fidelity={self.fidelity!r}: expected one of {', '.join(FIDELITIES)}")
        check_seeds(self.seeds)
        for name, least in (("batch", 1), ("seed", 0), ("threads", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
        if not isinstance(self.early_stopping, bool):
            raise TypeError(f"early_stopping={self.early_stopping!r}: expected true or false")
        if not isinstance(self.latency, Latency):
            raise TypeError(f"latency is a {type(self.latency).__name__}; expected a Latency")
        if not isinstance(self.training, Training):
            raise TypeError(f"training is a {type(self.training).__name__}; expected a Training")
        if self.dtype is not None and not getattr(getattr(torch, self.dtype, None), "is_floating_point", False):
            raise ValueError(f"dtype={self.dtype!r}: expected a floating one such as 'float32' or 'bfloat16'")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"device={self.device!r}: expected 'cpu', 'cuda' or 'cuda:N'") from error
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device={self.device!r}: expected 'cpu', 'cuda' or 'cuda:N'")

    @property
    def torch_device(self) -> torch.device:
        """`device`, as PyTorch's."""
        return torch.device(self.device)

    @property
    def here(self) -> torch.device:
        """`device`, for work of this process; a ValueError where it is not here."""
        return present(self.device)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """`dtype`, as PyTorch's."""
        found: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        return found

    def fingerprint(self) -> dict[str, Any]:
        """The part of a study's fingerprint that settings make: all but where on this machine it runs."""
        return self.to_json() | {"device": self.torch_device.type}

    def to_json(self) -> dict[str, Any]:
        """Plain values, by field name."""
        return asdict(self) | {"objectives": list(self.objectives), "seeds": list(self.seeds)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """The settings that `to_json` wrote.

        Raises:
            ValueError: a field is missing or of no use.
        """
        try:
            required = [one.name for one in fields(cls) if one.default is MISSING and one.default_factory is MISSING]
            # A study of before a setting has its default.
            own = {one.name: values[one.name] for one in fields(cls) if one.name in values or one.name in required}
            return cls(
                **own
                | {
                    "objectives": tuple(own["objectives"]),
                    "seeds": tuple(own["seeds"]),
                    "latency": Latency(**own.get("latency", {})),
                    "training": Training(**{"distillation": 0.0} | own["training"]),  # older ones had no teacher
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the study's settings are damaged ({error}); restore study.json or start anew") from error


def settle(
    budget: Budget,
    *,
    objectives: Sequence[str] | None,
    sampler: str | SamplerFactory,
    fidelity: str | None,
    seeds: Sequence[str],
    batch: int,
    early_stopping: bool,
    seed: int,
    device: str | torch.device,
    threads: int | None,
    dtype: str | torch.dtype | None,
    training: Training | None,
    latency: Latency | None,
    evaluator: Evaluator | None,
) -> tuple[Settings, SamplerFactory, Evaluator]:
    """The settings of a new study, with the factory of its sampler and its evaluator; arguments as of `Study.create`.

    Raises:
        ValueError: no study could follow a setting.
        TypeError: a setting of another type.
    """
    name, factory = sampler_factory(sampler)
    evaluator = (SHARED if name == "joint" else LADDER) if evaluator is None else evaluator
    if isinstance(evaluator, str) and evaluator not in EVALUATORS:
        raise ValueError(f"evaluator={evaluator!r}: expected one of {', '.join(EVALUATORS)}, or your own")
    if fidelity is None:
        fidelity = "recalibrated" if evaluator == SHARED else "short"
    settings = Settings(
        objectives=default_objectives(budget) if objectives is None else tuple(objectives),
        sampler=name,
        fidelity=fidelity,
        seeds=tuple(seeds) if not isinstance(seeds, str) else (seeds,),
        batch=batch,
        early_stopping=early_stopping,
        seed=seed,
        device=str(device),
        threads=torch.get_num_threads() if threads is None else threads,
        dtype=dtype_name(dtype),
        training=Training() if training is None else training,
        latency=Latency() if latency is None else latency,
    )
    return settings, factory, evaluator


def default_objectives(budget: Budget) -> tuple[str, ...]:
    """The error, and the first cost that the budget limits; macs where it limits none."""
    return ("error", next(iter(budget.asked()), "macs"))


def dtype_name(dtype: str | torch.dtype | None) -> str | None:
    """`"bfloat16"` for `torch.bfloat16`, `"bfloat16"` or `"torch.bfloat16"`."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


OWN = ("full", "compound", "magnitude")


SEEDS = (*OWN, *METHODS)


DEFAULT = ("full", "compound")


def check_seeds(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if all are known and none comes twice."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError(f"seeds={names!r}: expected a list of different names out of {', '.join(SEEDS)}")
    for name in names:
        if name not in SEEDS:
            near = difflib.get_close_matches(name, SEEDS, 1)
            mend = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(SEEDS)}"
            raise ValueError(f"seed {name!r} is not known; {mend}")
    return tuple(names)
