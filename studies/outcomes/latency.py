"""What a study has measured of latency, or of a cost of the user's own, and the model that predicts the rest.

A few dozen candidates are measured once, before the first is proposed (`Latencies.calibrate`), and kept in the study's
folder with all that they depend on: another device, precision or number of threads has a file of its own and begins
again. The trials' own measured latencies join them in the fit. `Arithmetic` is a cost of the user's own that needs
no network, and `CostGate` says what each trial costs before it is evaluated.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...evaluators.latency.latency import Latency, Timing, measure_latencies
from ...evaluators.latency.latency_model import LatencyModel, calibration
from ...spaces import Candidate, Cost, CostError, Encoded, Space, build, dtype_of
from ..disk.files import FormatError, read_json, to_json, write_atomic
from ..settings.search import evaluator_name
from ..trials.trial import REFERENCE, Failed, Skipped, Trial

logger = logging.getLogger("secateur")

FORMAT, VERSION = "secateur-latencies", 1
COUNT = 48  # networks that are measured before the first trial
GROUP = 8  # networks that are measured interleaved
MEMORY = 2**30  # bytes of weights that such a group may hold
UNSTEADY = 0.1  # median difference of two measurements from which on a user is told
_NOTHING = "no latency was measured yet; call calibrate() first"

Call = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Row:
    """A measured network: its candidate, its median milliseconds (or own cost), and their spread (see `Timing`)."""

    candidate: Candidate
    latency_ms: float
    spread: float


@final
class Latencies:
    """The measured latencies, or own costs, of one space on one device, on disk.

    Attributes:
        name: of the cost.
        path: the file; made with the first rows.
        conditions: all that the rows depend on, in plain values.
        rows: what was measured, in order.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: nn.Module,
        space: Space,
        device: torch.device,
        options: Latency | None = None,
        measure: Callable[[Sequence[Call], Latency], list[Timing]] = measure_latencies,
        cost: Cost | None = None,
    ) -> None:
        """Find what the folder holds for these conditions; nothing is measured yet.

        Args:
            folder: the study's.
            model: the full network; it is never changed.
            space: its traced space.
            device: where networks are measured.
            options: how; `Latency()` when None.
            measure: called like `measure_latencies`, and instead of it.
            cost: a cost of the user's own, which is asked instead.

        Raises:
            FormatError: the file is truncated or was edited.
        """
        self._model, self._space, self._device = model, space, device
        self._options, self._measure = Latency() if options is None else options, measure
        self.name, self._unit, kind = "latency_ms", " ms", "latency"
        self.conditions = _conditions(model, space, device, self._options)
        if cost is not None:
            self.name, self._unit, kind, self._measure = cost.name, "", "cost", partial(_asked, cost)
            self.conditions |= {"cost": cost.name, "measure": evaluator_name(cost.measure)}
        digest = hashlib.sha256(json.dumps(self.conditions, sort_keys=True).encode()).hexdigest()
        self.path = Path(folder) / f"{kind}-{digest[:8]}.json"
        self._fitted: tuple[tuple[tuple[Candidate, float], ...], LatencyModel] | None = None
        self.rows = _read(self.path, self.conditions, space) if self.path.exists() else []

    def calibrate(
        self, count: int = COUNT, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Measure what is missing of `calibration(space, count, seed)`, a group at a time; each is kept as it ends.

        Args:
            count: networks in all.
            seed: of the choice of networks.
            progress: called with the networks measured so far and all there are.
        """
        wanted = calibration(self._space, count, seed)
        known = {row.candidate for row in self.rows}
        missing = [candidate for candidate in wanted if candidate not in known]
        bytes_each = int(self._space.full_costs["param_bytes"])
        size = max(1, min(GROUP, MEMORY // max(bytes_each, 1)))
        for start in range(0, len(missing), size):
            group = missing[start : start + size]
            timings = self.measure(group)
            self.rows += [Row(one, timing.ms, timing.spread) for one, timing in zip(group, timings, strict=True)]
            self._write()
            if progress is not None:
                progress(len(wanted) - len(missing) + start + len(group), len(wanted))

    def measure(self, candidates: Sequence[Candidate], networks: Sequence[nn.Module] | None = None) -> list[Timing]:
        """The time of each network, interleaved; nothing is kept. Which channels stay does not matter.

        Args:
            candidates: one choice on every axis, each.
            networks: as they were built; built here when None.
        """
        built = [build(self._model, self._space, one) for one in candidates] if networks is None else networks
        calls = [
            self._space.call(network.to(self._device), candidate, batch=self._options.batch)
            for network, candidate in zip(built, candidates, strict=True)
        ]
        return self._measure(calls, self._options)

    def model(self, told: Iterable[tuple[Candidate, float]] = ()) -> LatencyModel:
        """The model fitted to the rows and to other measured networks.

        Args:
            told: candidates with their milliseconds, under the same conditions, such as those of the trials told.

        Raises:
            ValueError: fewer than two networks were measured; call `calibrate` first.
        """
        pairs = (*((row.candidate, row.latency_ms) for row in self.rows), *told)
        if not pairs:
            raise ValueError(_NOTHING)
        if self._fitted is None or self._fitted[0] != pairs:
            encoded = self._space.encode([candidate for candidate, _ in pairs])
            self._fitted = pairs, LatencyModel.fit(self._space, encoded, [latency_ms for _, latency_ms in pairs])
        return self._fitted[1]

    def reachable(self) -> tuple[float, float]:
        """The least and the most milliseconds that any measured network took.

        Raises:
            ValueError: nothing was measured yet; call `calibrate` first.
        """
        if not self.rows:
            raise ValueError(_NOTHING)
        times = [row.latency_ms for row in self.rows]
        return min(times), max(times)

    def check_limit(self, limit_ms: float) -> None:
        """Raise a ValueError with the reachable range where no measured network, the smallest included, comes near.

        Near is within a tenth, because a second measurement differs a little.
        """
        least, most = self.reachable()
        if 1.1 * limit_ms < least:
            raise ValueError(
                f"budget {self.name}={limit_ms:g} is below every one of {len(self.rows)} measured networks of this "
                f"space: reachable are {least:.3g} to {most:.3g}{self._unit} on {self.conditions['device']}; raise it, "
                "or allow smaller networks (a lower divisor, lower resolutions)"
            )

    def said(self) -> dict[str, float]:
        """How well it is foretold: `rows` measured, `error` and `margin` of the model, median `spread` of the rows."""
        model, spread = self.model(), statistics.median(row.spread for row in self.rows)
        if spread > UNSTEADY and self.name != "latency_ms":
            logger.warning(
                "cost %r differs by %.0f%% in the median when the same network is measured again: a limit on it holds "
                "no more closely than that; measure longer, or on a quiet machine",
                self.name,
                100 * spread,
            )
        return {"rows": len(self.rows), "error": model.error, "margin": model.margin, "spread": spread}

    def _write(self) -> None:
        rows = [
            {"candidate": list(row.candidate), "latency_ms": row.latency_ms, "spread": row.spread} for row in self.rows
        ]
        found = {"format": FORMAT, "format_version": VERSION, "conditions": self.conditions, "rows": rows}
        write_atomic(self.path, to_json(found))


@final
class Arithmetic:
    """A cost of the user's own that is arithmetic of a candidate, each asked once."""

    def __init__(self, cost: Cost, space: Space) -> None:
        self._cost, self._space = cost, space
        self._known: dict[tuple[int, ...], float] = {}

    def __reduce__(self) -> tuple[type[Arithmetic], tuple[Cost, Space]]:
        """A worker finds out for itself."""
        return Arithmetic, (self._cost, self._space)

    def __call__(self, candidate: Sequence[int]) -> float:
        """The cost of a candidate.

        Raises:
            CostError: the function raised, or gave no positive number.
        """
        name = tuple(candidate)
        if name not in self._known:
            self._known[name] = self._cost(self._space, self._space.canonical(name))
        return self._known[name]

    def predict(self, encoded: Encoded) -> npt.NDArray[np.float64]:
        """`(n,)` costs of `(n, d)` candidates."""
        return np.array([self(row) for row in np.asarray(encoded).tolist()], np.float64)

    def check_limit(self, limit: float) -> None:
        """Raise a ValueError with the reachable range where none of a few dozen networks is within the limit."""
        known = [self(candidate) for candidate in calibration(self._space, COUNT)]
        if limit < min(known):
            raise ValueError(
                f"budget {self._cost.name}={limit:g} is below every one of {len(known)} networks of this space: "
                f"reachable are {min(known):.3g} to {max(known):.3g}; raise it, or allow smaller networks"
            )


@dataclass(frozen=True, kw_only=True)
class CostGate:
    """Says what a trial costs, in the driver and before any trial of its batch runs, so that nothing disturbs it.

    Attributes:
        costs: the latency and costs of the user's own, by name, in the order in which they are asked.
        full: the full network, which is evaluated whatever it costs.
        limits: no network above one is evaluated.
    """

    costs: Mapping[str, Callable[[Candidate], float]]
    full: Candidate
    limits: Mapping[str, float]

    def __call__(self, trial: Trial) -> Trial:
        """The trial with what it costs; skipped where that is over a limit, failed where a cost is none."""
        start, found = time.perf_counter(), dict[str, float]()
        reference = trial.candidate == self.full or trial.source == REFERENCE
        over = ""
        for name, cost in self.costs.items():
            try:
                found[name] = cost(trial.candidate)
            except CostError as error:
                return replace(trial, outcome=Failed(reason=str(error), seconds=time.perf_counter() - start))
            limit = self.limits.get(name)
            if limit is not None and found[name] > limit and not reference:
                said, unit = ("latency", " ms") if name == "latency_ms" else (name, "")
                over = f"{said} {found[name]:.3g}{unit} is over the budget of {limit:.3g}{unit}"
                break
        latency_ms = found.pop("latency_ms", None)
        if not over:
            return replace(trial, timed_ms=latency_ms, measured=found)
        seconds = time.perf_counter() - start
        return replace(trial, outcome=Skipped(reason=over, latency_ms=latency_ms, seconds=seconds, measured=found))


def _asked(cost: Cost, calls: Sequence[Call], options: Latency) -> list[Timing]:
    """A cost of the user's own of each network, asked twice."""
    found = []
    for network, example in calls:
        network.eval()
        with torch.no_grad():
            found.append(Timing(*cost.twice(network, example)))
    return found


def _conditions(model: nn.Module, space: Space, device: torch.device, options: Latency) -> dict[str, Any]:
    own = str(dtype_of(model)).removeprefix("torch.")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads() if options.threads is None else options.threads,
        "batch": options.batch,
        "dtype": own if options.dtype is None else options.dtype,
        "channels_last": options.channels_last,
        "cuda_graph": options.cuda_graph,
        "space": space.fingerprint,
        "block_order": {name: list(order) for name, order in space.settings["block_order"].items()},
    }


def _processor() -> str:
    """The name of the CPU; Linux says it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _read(path: Path, conditions: Mapping[str, Any], space: Space) -> list[Row]:
    found = read_json(path)
    if (found.get("format"), found.get("format_version")) != (FORMAT, VERSION):
        raise FormatError(f"{path} is not of this secateur's latencies; remove it, and they are measured again")
    try:
        rows = [
            Row(space.check(row["candidate"]), float(row["latency_ms"]), float(row["spread"])) for row in found["rows"]
        ]
        same = found["conditions"] == conditions and all(0 < row.latency_ms < float("inf") for row in rows)
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise FormatError(f"{path} was edited; remove it, and latencies are measured again")
    return rows
