"""What a study searches with, put together from its parts, and held while it proposes or tells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ...evaluators import Evaluator, Ladder, Latency, Task, Teacher, Training
from ...evaluators.modes import reproducible
from ...pruners.criteria.retained import RankingProxy, proxy_table
from ...search import Foretold, Problem, SamplerFactory, Told, expected_errors
from ...spaces import Budget, Candidate, Scores, Space
from ..disk.artifacts import INHERITED, ROUND, Artifacts
from ..disk.files import locked
from ..exports.exporter import Exporter
from ..outcomes.latency import Arithmetic, CostGate, Latencies
from ..outcomes.rounds import Rounds
from ..outcomes.stopping import Stopping
from ..outcomes.work import Evaluation, Work
from ..proposals.proposer import Proposer, Seeds
from ..proposals.pruning import Pruning, method_named
from ..proposals.seed_maker import SeedMaker
from ..proposals.seeds import Aim
from ..settings.search import SHARED, Search
from ..trials.events import Calibrated, Listener
from ..trials.folder import read_study_json, storage_lock
from ..trials.front import expected_of
from ..trials.ledger import Ledger
from ..trials.trial import Scored
from .lease import Lease


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """The parts of a study that do not change while it is open.

    Attributes:
        path: the study's folder.
        model: the full network with the base weights.
        task: data, loss and error.
        space: what may be chosen.
        search: how it searches.
        training: how networks are trained.
        latency: how networks are timed.
        fingerprint: what it was made with, part by part.
        ledger: its trials.
    """

    path: Path
    model: nn.Module
    task: Task
    space: Space
    search: Search
    training: Training
    latency: Latency
    fingerprint: Mapping[str, Any]
    ledger: Ledger

    @property
    def ranking(self) -> str:
        """Name of the study's own ranking."""
        found: str = self.fingerprint["ranking"]
        return found

    @property
    def scores(self) -> Scores:
        """The study's own ranking."""
        return self.space.default_scores if self.search.scores is None else self.search.scores

    @cached_property
    def teacher(self) -> Teacher:
        """The full network, at its own resolution."""
        return Teacher(model=self.model, resolution=self.space.side(self.space.full) or None)

    @cached_property
    def artifacts(self) -> Artifacts:
        """Rankings and weights that trials name."""
        return Artifacts(folder=self.path, space=self.space, scores=self.search.scores, ranking=self.ranking)

    @cached_property
    def latencies(self) -> Latencies:
        """Measures networks, and keeps what was measured before the first trial."""
        options, search = self.latency, self.search
        return Latencies(
            self.path,
            model=self.model,
            space=self.space,
            device=search.here,
            options=replace(options, threads=search.threads if options.threads is None else options.threads),
        )

    @cached_property
    def own_measured(self) -> dict[str, Latencies]:
        """Costs of the user's own that are measured of a built network, by name."""
        where: dict[str, Any] = {"model": self.model, "space": self.space}
        return {
            cost.name: Latencies(self.path, **where, device=self.search.here, cost=cost)
            for cost in self.search.costs
            if cost.measured
        }

    @cached_property
    def own_arithmetic(self) -> dict[str, Arithmetic]:
        """Costs of the user's own that are arithmetic of a candidate, by name."""
        return {cost.name: Arithmetic(cost, self.space) for cost in self.search.costs if not cost.measured}

    def measured(self, limits: Mapping[str, float]) -> dict[str, Latencies]:
        """What measures the costs that are limited or minimised, by name."""
        wanted = {*limits, *self.search.objectives}
        timed = {"latency_ms": self.latencies} if "latency_ms" in wanted else {}
        return timed | {name: one for name, one in self.own_measured.items() if name in wanted}

    @cached_property
    def pruning(self) -> Pruning:
        """Asks pruning methods."""
        return Pruning(
            model=self.model,
            space=self.space,
            task=self.task,
            training=self.training,
            seed=self.search.seed,
            device=self.device,
        )

    @cached_property
    def evaluator(self) -> Evaluator:
        """The user's own, or the ladder of fidelities."""
        return self.search.own_evaluator or Ladder(
            self.task,
            self.training,
            device=self.device,
            threads=self.search.threads,
            teacher=self.teacher,
            proxy=RankingProxy(self.space, self.scores) if self.search.fidelity == "zero-shot" else None,
        )

    @contextmanager
    def held(self, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the study, with all of its trials read: nothing else proposes or tells while the block runs.

        Args:
            wait_s: how long another process that holds it is waited for.

        Raises:
            ValueError: another process holds it, or the folder can't be written.
        """
        with locked(self.path, also=self._storage_lock, wait_s=wait_s), reproducible(self.search.threads, self.device):
            with Lease(self.ledger, wait_s=wait_s) if self.ledger.shared else nullcontext():
                self.ledger.refresh()
                yield

    @cached_property
    def device(self) -> torch.device:
        """Where networks are trained and measured."""
        return self.search.torch_device

    @cached_property
    def full_latency_ms(self) -> float:
        """Measured milliseconds of the full network, as the first run noted them."""
        noted: float | None = self.ledger.notes.get("full_latency_ms")
        if noted is not None:
            return noted
        with reproducible(self.search.threads, self.device):
            return self.latencies.measure([self.space.full])[0].ms

    def limits(self, budget: Budget) -> dict[str, float]:
        """A budget in absolute numbers, by name; measures the full network where only its latency can tell."""
        key = repr(budget)  # equal ones may differ: 1 is absolute and 1.0 a share
        if key not in self._limits:
            budget.check([cost.name for cost in self.search.costs])
            latency_ms = self.full_latency_ms if budget.needs_full("latency_ms") else None
            full = read_study_json(self.path, to_write=False)["full_costs"] if budget.own else {}
            self._limits[key] = budget.limits(full | self.space.full_costs, latency_ms), budget.given()
        return dict(self._limits[key][0])

    def resolve(self, budget: Budget, progress: Listener | None) -> dict[str, float]:
        """The same for the run that begins: remembers the budget, and measures what only now is limited."""
        ledger, limits = self.ledger, self.limits(budget)
        notes, given = ledger.notes, self._limits[repr(budget)][1]
        if notes.get("budget") != given:
            ledger.note("budget", given)
        if "full_latency_ms" in self.__dict__ and "full_latency_ms" not in notes:
            ledger.note("full_latency_ms", self.full_latency_ms)
        measured = self.measured(limits)
        for name, one in measured.items():
            one.calibrate(seed=self.search.seed, progress=_calibration(name, progress))
        limited: dict[str, Latencies | Arithmetic] = {**measured, **self.own_arithmetic}
        for name in limited.keys() & limits.keys():
            limited[name].check_limit(limits[name])
        if measured:
            said = {name: one.said() for name, one in measured.items()}
            if notes.get("foretold") != said:
                ledger.note("foretold", said)
        if "latency_ms" in limits:
            for trial in ledger.trials:
                if trial.scored and "latency_ms" not in trial.measures:
                    [timing] = self.latencies.measure([trial.candidate])
                    ledger.note_latency(trial, timing.ms)
        return limits

    def problem(self, limits: Mapping[str, float]) -> Problem:
        """What samplers are asked to solve; what is measured is predicted once enough was measured."""
        models = {name: one.model() for name, one in self.measured(limits).items() if one.rows}
        learned = {name: Foretold(predict=one.predict, margin=one.margin) for name, one in models.items()}
        exact = {name: Foretold(predict=one.predict, exact=True) for name, one in self.own_arithmetic.items()}
        return Problem(
            space=self.space,
            objectives=self.search.objectives,
            limits=limits,
            scores=self.search.scores,
            batch=self.search.batch,
            seed=self.search.seed,
            trials=int(self.ledger.notes.get("trials", 100)),
            seconds=self._seconds,
            foretold=learned | exact,
        )

    def proposer(self, limits: Mapping[str, float], progress: Listener | None) -> Proposer:
        """Says what to try."""
        return Proposer(
            problem=self.problem(limits),
            factory=self._factory,
            ranking=self.ranking,
            seeds=Seeds(self.search.seeds, self.space, limits, self.seed_maker(progress)),
            fidelity=self.search.fidelity,
            weights=f"{ROUND}0" if self.fingerprint["evaluator"] == SHARED else INHERITED,
        )

    def seed_maker(self, progress: Listener | None) -> SeedMaker:
        """Makes seeds."""
        return SeedMaker(pruning=self.pruning, artifacts=self.artifacts, scores=self.scores, say=progress)

    def work(self, limits: Mapping[str, float]) -> Work:
        """What turns trials into outcomes, here or elsewhere."""
        evaluation = Evaluation(
            model=self.model,
            space=self.space,
            artifacts=self.artifacts,
            evaluator=self.evaluator,
            seed=self.search.seed,
            rounds=self._rounds(limits),
            stopping=self._stopping(),
            keeps_weights=getattr(self._factory(0, self.problem(limits)), "names_parents", False),
        )
        return Work(evaluation=evaluation, threads=self.search.threads, device=self.search.device)

    def gate(self, limits: Mapping[str, float]) -> CostGate | None:
        """Says what a trial costs before anything is trained; None where our arithmetic says it all."""

        def of(measured: Latencies) -> Callable[[Candidate], float]:
            return lambda candidate: measured.measure([candidate])[0].ms

        measured = {name: of(one) for name, one in {**self.measured(limits), **self.own_measured}.items()}
        costs: dict[str, Callable[[Candidate], float]] = {**self.own_arithmetic, **measured}
        return CostGate(costs=costs, full=self.space.full, limits=limits) if costs else None

    def exporter(self, limits: Mapping[str, float]) -> Exporter:
        """Writes networks."""
        return Exporter(
            study=self.path,
            model=self.model,
            space=self.space,
            artifacts=self.artifacts,
            task=self.task,
            search=self.search,
            training=self.training,
            teacher=self.teacher,
            fingerprint=self.fingerprint,
            limits=limits,
            expected=expected_of(self.ledger.trials, self.ledger.notes),
        )

    def expected_errors(self, limits: Mapping[str, float]) -> dict[int, float]:
        """What the errors of trials are taken to be; see `search.expected_errors`."""
        scored = [trial for trial in self.ledger.trials if isinstance(trial.outcome, Scored) and trial.told]
        if not scored or not self.space.axes:
            return {}
        objectives = self.search.objectives
        seen = Told(
            numbers=np.array([trial.number for trial in scored]),
            encoded=np.array([trial.candidate for trial in scored]),
            values=np.array([trial.values(objectives) for trial in scored]),
            error=np.array([trial.error for trial in scored], float),
            error_std=np.array([trial.error_std for trial in scored], float),
            feasible=np.array([trial.within(limits) for trial in scored]),
            pending=np.empty((0, len(self.space.axes)), np.int64),
        )
        return expected_errors(self.problem(limits), seen)

    def proxies(self, methods: Sequence[str] = ()) -> pd.DataFrame:
        """As `Study.proxies`."""
        rankings = {self.ranking: self.scores}
        for name in self.artifacts.rankings():
            rankings[name] = self.artifacts.scores_of(name) or self.scores
        whole = Aim(limits={"macs": self.space.full_costs["macs"]})
        for name in methods:
            rankings[name] = self.pruning.propose(method_named(name), whole).scores
        scored = [trial for trial in self.ledger.trials if isinstance(trial.outcome, Scored) and trial.told]
        costs = {name: [trial.costs[name] for trial in scored] for name in ("macs", "params")}
        errors = [trial.outcome.error for trial in scored if isinstance(trial.outcome, Scored)]
        return proxy_table(self.space, rankings, [trial.candidate for trial in scored], errors, costs)

    @cached_property
    def at_begin(self) -> list[Callable[[], object]]:
        """What `begin` calls, once."""
        return []

    def begin(self) -> None:
        """Say that a run holds the study and has all that it needs."""
        while self.at_begin:
            self.at_begin.pop()()

    @cached_property
    def _limits(self) -> dict[str, tuple[dict[str, float], dict[str, float | int | str]]]:
        """Budgets that were asked about: their limits, and how they are noted."""
        return {}

    @cached_property
    def _storage_lock(self) -> Path | None:
        return storage_lock(self.path, read_study_json(self.path))

    @cached_property
    def _factory(self) -> SamplerFactory:
        return self.search.factory

    def _rounds(self, limits: Mapping[str, float]) -> Rounds:
        training = self.training
        # How long trials take is read from the ledger, which stays here when the rounds travel to a worker.
        problem = replace(self.problem(limits), seconds=Problem.seconds)
        return Rounds(
            folder=self.path,
            model=self.model,
            problem=problem,
            task=self.task,
            training=training,
            first_epochs=training.shared_epochs,
            later_epochs=training.round_epochs,
            networks=training.shared_networks,
            device=self.device,
        )

    def _stopping(self) -> Stopping | None:
        if not self.search.early_stopping:
            return None
        return Stopping(
            objectives=self.search.objectives,
            batch=self.search.batch,
            fidelity=self.search.fidelity,
        )

    def _seconds(self) -> float:
        """What a trial of the first batch took, in the median; the same ever after, so no proposal depends on today."""
        first = [trial for trial in self.ledger.trials[: self.search.batch] if trial.scored]
        known = [trial.outcome.seconds for trial in first if trial.outcome]
        return statistics.median(known) if len(first) == self.search.batch else math.inf


def _calibration(cost: str, progress: Listener | None) -> Callable[[int, int], None]:
    def say(done: int, total: int) -> None:
        if progress is not None:
            progress(Calibrated(done=done, total=total, cost="latency" if cost == "latency_ms" else cost))

    return say
