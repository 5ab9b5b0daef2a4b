"""What a study has measured of latency, and the model that predicts the rest.

A few dozen candidates are measured once, before the first is proposed (`Latencies.calibrate`), and kept in the study's
folder with all that they depend on: another device, precision or number of threads has a file of its own and begins
again. The trials' own measured latencies join them in the fit.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ...evaluators.latency.latency import Latency, Timing, measure_latencies
from ...evaluators.latency.latency_model import LatencyModel, calibration
from ...spaces import Candidate, Space, build, dtype_of
from ..disk.files import FormatError, read_json, to_json, write_atomic
from ..trials.trial import REFERENCE, Skipped, Trial

FORMAT, VERSION = "secateur-latencies", 1
COUNT = 48  # networks that are measured before the first trial
GROUP = 8  # networks that are measured interleaved
MEMORY = 2**30  # bytes of weights that such a group may hold
_NOTHING = "no latency was measured yet; call calibrate() first"

Call = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Row:
    """A measured network: its candidate, its median milliseconds, and their spread (see `Timing`)."""

    candidate: Candidate
    latency_ms: float
    spread: float


@final
class Latencies:
    """The measured latencies of one space on one device, on disk.

    Attributes:
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
    ) -> None:
        """Find what the folder holds for these conditions; nothing is measured yet.

        Args:
            folder: the study's.
            model: the full network; it is never changed.
            space: its traced space.
            device: where networks are measured.
            options: how; `Latency()` when None.
            measure: called like `measure_latencies`, and instead of it.

        Raises:
            FormatError: the file is truncated or was edited.
        """
        self._model, self._space, self._device = model, space, device
        self._options, self._measure = Latency() if options is None else options, measure
        self.conditions = _conditions(model, space, device, self._options)
        digest = hashlib.sha256(json.dumps(self.conditions, sort_keys=True).encode()).hexdigest()
        self.path = Path(folder) / f"latency-{digest[:8]}.json"
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
        pairs = [(row.candidate, row.latency_ms) for row in self.rows] + list(told)
        if not pairs:
            raise ValueError(_NOTHING)
        encoded = self._space.encode([candidate for candidate, _ in pairs])
        return LatencyModel.fit(self._space, encoded, [latency_ms for _, latency_ms in pairs])

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
                f"budget latency_ms={limit_ms:g} is below every one of {len(self.rows)} measured networks of this "
                f"space: reachable are {least:.3g} to {most:.3g} ms on {self.conditions['device']}; raise it, or allow "
                "smaller networks (a lower divisor, lower resolutions)"
            )

    def _write(self) -> None:
        rows = [
            {"candidate": list(row.candidate), "latency_ms": row.latency_ms, "spread": row.spread} for row in self.rows
        ]
        found = {"format": FORMAT, "format_version": VERSION, "conditions": self.conditions, "rows": rows}
        write_atomic(self.path, to_json(found))


@dataclass(frozen=True, kw_only=True)
class LatencyGate:
    """Measures a trial's latency, in the driver and before any trial of its batch runs, so that nothing disturbs it.

    Attributes:
        latencies: measures.
        full: the full network, which is evaluated whatever it takes.
        limit_ms: no slower network is evaluated; None leaves latency free.
    """

    latencies: Latencies
    full: Candidate
    limit_ms: float | None = None

    def __call__(self, trial: Trial) -> Trial:
        """The trial with its latency; skipped where that is over the limit."""
        start = time.perf_counter()
        latency_ms = self.latencies.measure([trial.candidate])[0].ms
        reference = trial.candidate == self.full or trial.source == REFERENCE
        if self.limit_ms is None or latency_ms <= self.limit_ms or reference:
            return replace(trial, timed_ms=latency_ms)
        reason = f"latency {latency_ms:.3g} ms is over the budget of {self.limit_ms:.3g} ms"
        seconds = time.perf_counter() - start
        return replace(trial, outcome=Skipped(reason=reason, latency_ms=latency_ms, seconds=seconds))


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
