"""Where trials run: one frozen dataclass a kind of runner, with the settings that this kind has.

`KINDS` has them by name; `runners/dispatch.py` has the executor of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

from annotated_types import Ge, Gt, Le, Lt

from ...spaces.checked import check, near

SCHEDULERS = ("asha", "median")  # of Ray Tune

_LONGEST_S = 10**9  # 30 years: what the system's timers take is not much longer
_MOST_WORKERS = 2**16
_Amount = Annotated[float, Ge(0), Lt(math.inf)]


@dataclass(frozen=True, kw_only=True)
class Runner:
    """What all kinds of runners have; the table of trials depends on none but for time-outs and `asynchronous`.

    The first sentence on an attribute, here and below, is its help at the command line.

    Attributes:
        kind: where trials run: "serial", in this process; "processes", on this machine; "ray", in warm actors of a Ray
            cluster; "tune", as trials of Ray Tune.
        timeout_s: seconds after which a trial is given up as failed. None waits for ever.
        retries: how often a trial whose worker died is tried again.
        asynchronous: propose whenever a slot is free instead of a batch at a time: more throughput, and trials that
            depend on timing.
    """

    kind: ClassVar[str]
    timeout_s: Annotated[float, Gt(0), Le(_LONGEST_S)] | None = None
    retries: Annotated[int, Ge(0)] = 2
    asynchronous: bool = False

    def __post_init__(self) -> None:
        """Refuse what no runner could follow."""
        check(self)


@final
@dataclass(frozen=True, kw_only=True)
class Serial(Runner):
    """Trials one after another, in this process."""

    kind: ClassVar[str] = "serial"


@dataclass(frozen=True, kw_only=True)
class _Workers(Runner):
    """What runners of several workers have.

    Attributes:
        workers: how many trials run at a time; as many as there is room for unless given.
        cpus_per_trial: cores that a trial takes; when None the study's threads, or one beside a GPU on Ray.
        gpus_per_trial: GPUs that a trial takes, a share such as 0.5 or a whole number; one on CUDA and none elsewhere
            unless given.
    """

    workers: Annotated[int, Ge(1), Le(_MOST_WORKERS)] | None = None
    cpus_per_trial: _Amount | None = None
    gpus_per_trial: _Amount | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        gpus = self.gpus_per_trial
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_trial={gpus!r}: expected a share of one GPU, or a whole number of them")


@final
@dataclass(frozen=True, kw_only=True)
class Processes(_Workers):
    """Trials in processes of this machine."""

    kind: ClassVar[str] = "processes"


@dataclass(frozen=True, kw_only=True)
class OnCluster(_Workers):
    """What runners on a Ray cluster have.

    Attributes:
        resources: further resources of the Ray cluster that a trial takes, by name.
        address: of a running Ray cluster, "auto" or "ray://HOST:10001"; a local one is started unless given.
    """

    resources: Mapping[str, _Amount] = field(default_factory=dict)
    address: str | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Ray(OnCluster):
    """Trials in warm actors of a Ray cluster."""

    kind: ClassVar[str] = "ray"


@final
@dataclass(frozen=True, kw_only=True)
class Tune(OnCluster):
    """Trials as trials of Ray Tune.

    Attributes:
        scheduler: of Ray Tune, which ends trials early: "asha" or "median", by the loss of every epoch. In Python also
            one of Tune's that only stops trials. Results have `epoch`, `loss` and, after every rung, `error`. None ends
            none.
        folder: where Ray Tune writes its results, an experiment a run; `tune` in the study's folder when None.
    """

    kind: ClassVar[str] = "tune"
    scheduler: Any = None
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.scheduler, str) and self.scheduler not in SCHEDULERS:
            raise ValueError(
                f"scheduler={self.scheduler!r}: expected one of {', '.join(SCHEDULERS)}, or in Python one of Tune's"
            )


KINDS: dict[str, type[Runner]] = {one.kind: one for one in (Serial, Processes, Ray, Tune)}


def check_kind(kind: str, settings: Mapping[str, Any]) -> None:
    """Refuse a kind that is not known, and a setting that only others have.

    Raises:
        ValueError: naming the kinds that are meant.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}{near(kind, tuple(KINDS))}")
    for name, value in settings.items():
        having = [repr(other) for other, one in KINDS.items() if name in {its.name for its in fields(one)}]
        if having and repr(kind) not in having:
            others = " or ".join(filter(None, (", ".join(having[:-1]), having[-1])))
            raise ValueError(f"{name}={value!r} with kind={kind!r}; expected kind={others}")


def runner_of(kind: str, **settings: Any) -> Runner:
    """A runner by the name of its kind.

    Raises:
        ValueError: the kind is not known, or has no such setting.
    """
    check_kind(kind, settings)
    return KINDS[kind](**settings)
