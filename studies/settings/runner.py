"""Where trials run: the settings of a runner, and what every kind of it can do.

A runner has slots, each of which does one job at a time. `dispatch.py` gives them jobs, and counts attempts and time;
`serial.py`, `processes.py`, `ray_actors.py` and `tuning.py` are the kinds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

KINDS = ("serial", "processes", "ray", "tune")
SCHEDULERS = ("asha", "median")  # of Ray Tune


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Where and how trials run; the table of trials does not depend on it, but for time-outs and `asynchronous`.

    Attributes:
        kind: `"serial"`, in this process; `"processes"` on this machine; `"ray"`, warm actors of a Ray cluster;
            `"tune"`, trials of Ray Tune.
        workers: how many trials run at a time; as many as the machine or the cluster has room for when None.
        cpus_per_trial: cores that a trial takes; when None the study's threads, or one beside a GPU on Ray.
        gpus_per_trial: GPUs that a trial takes, a share of one where below 1; one on CUDA and none elsewhere when None.
        resources: further resources of the Ray cluster that a trial takes, by name.
        address: of a running Ray cluster (`"auto"`, `"ray://HOST:10001"`); a local one is started when None.
        timeout_s: seconds after which a trial is given up as failed; None waits for ever.
        retries: how often a trial whose worker died is tried again.
        asynchronous: propose whenever a slot is free instead of a batch at a time: more throughput, and trials that
            depend on timing.
        scheduler: of Ray Tune, which ends trials early: `"asha"` or `"median"`; none when None.
        folder: where Ray Tune writes its results; `tune` in the study's folder when None.
    """

    kind: str = "serial"
    workers: int | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    address: str | None = None
    timeout_s: float | None = None
    retries: int = 2
    asynchronous: bool = False
    scheduler: str | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no runner could follow."""
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: expected one of {', '.join(KINDS)}")
        for name, least in (("workers", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
        for name, value in [
            ("cpus_per_trial", self.cpus_per_trial),
            ("gpus_per_trial", self.gpus_per_trial),
            ("timeout_s", self.timeout_s),
            *((f"resources.{name}", amount) for name, amount in self.resources.items()),
        ]:
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"{name}={value!r}: expected a number of at least 0")
        gpus = self.gpus_per_trial
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_trial={gpus!r}: expected a share of one GPU, or a whole number of them")
        if self.kind == "serial" and (gpus or 0) > 1:
            raise ValueError(f"gpus_per_trial={gpus!r} with kind='serial', which trains on one; expected another kind")
        if self.timeout_s == 0:
            raise ValueError("timeout_s=0: expected more than 0 seconds, or nothing for no limit")
        if self.kind == "serial" and (self.workers or 1) > 1:
            raise ValueError(f"workers={self.workers} with kind='serial', which has one; expected another kind")
        if self.address is not None and self.kind not in ("ray", "tune"):
            raise ValueError(f"address={self.address!r} with kind={self.kind!r}; expected kind='ray' or 'tune'")
        if self.scheduler not in (None, *SCHEDULERS):
            raise ValueError(f"scheduler={self.scheduler!r}: expected one of {', '.join(SCHEDULERS)}")
        for name in ("scheduler", "folder"):
            if getattr(self, name) is not None and self.kind != "tune":
                raise ValueError(f"{name}={getattr(self, name)!r} with kind={self.kind!r}; expected kind='tune'")
        if self.resources and self.kind not in ("ray", "tune"):
            raise ValueError(f"resources={dict(self.resources)} with kind={self.kind!r}; expected kind='ray' or 'tune'")
