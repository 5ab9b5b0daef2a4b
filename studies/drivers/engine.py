"""What a study searches with, put together from its parts; a study asks here for what a run needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ...evaluators import Evaluator, Ladder, Latency, Task, Teacher, Training
from ...search import Problem
from ...spaces import Scores, Space
from ..disk.artifacts import INHERITED, ROUND, Artifacts
from ..exports.exporter import Exporter
from ..outcomes.evaluation import Evaluation
from ..outcomes.latency import Latencies, LatencyGate
from ..outcomes.rounds import Rounds
from ..outcomes.stopping import Stopping
from ..outcomes.work import Work
from ..proposals.proposer import Proposer
from ..proposals.proxies import RankingProxy, proxy_table
from ..proposals.pruning import Pruning, method_named
from ..proposals.seed_maker import SeedMaker
from ..proposals.seeds import Aim, Seeds
from ..settings.search import SHARED, Search
from ..trials.events import Listener
from ..trials.ledger import Ledger


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
    def pruning(self) -> Pruning:
        """Asks pruning methods."""
        return Pruning(
            model=self.model,
            space=self.space,
            task=self.task,
            training=self.training,
            seed=self.search.seed,
            device=self.search.torch_device,
        )

    @cached_property
    def evaluator(self) -> Evaluator:
        """The user's own, or the ladder of fidelities."""
        return self.search.own_evaluator or Ladder(
            self.task,
            self.training,
            device=self.search.torch_device,
            threads=self.search.threads,
            teacher=self.teacher,
            proxy=RankingProxy(self.space, self.scores) if self.search.fidelity == "zero-shot" else None,
        )

    def problem(self, limits: Mapping[str, float]) -> Problem:
        """What samplers are asked to solve; latencies are predicted once enough were measured."""
        predicted = self.latencies.model() if self.wants_latency(limits) and self.latencies.rows else None
        return Problem(
            space=self.space,
            objectives=self.search.objectives,
            limits=limits,
            scores=self.search.scores,
            batch=self.search.batch,
            seed=self.search.seed,
            trials=int(self.ledger.notes().get("trials", 100)),
            seconds=self._seconds,
            latency=None if predicted is None else predicted.predict,
            latency_margin=0.0 if predicted is None else predicted.margin,
        )

    def wants_latency(self, limits: Mapping[str, float]) -> bool:
        """Whether latency is limited or minimised."""
        return "latency_ms" in limits or "latency_ms" in self.search.objectives

    def proposer(self, limits: Mapping[str, float], progress: Listener | None) -> Proposer:
        """Says what to try."""
        seed_maker = self.seed_maker(progress)
        return Proposer(
            problem=self.problem(limits),
            factory=self.search.factory,
            seeds=Seeds(self.search.seeds, self.space, limits, seed_maker),
            ranking=self.ranking,
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
            keeps_weights=getattr(self.search.factory(0, self.problem(limits)), "names_parents", False),
        )
        return Work(evaluation=evaluation, threads=self.search.threads, device=self.search.device)

    def gate(self, limits: Mapping[str, float]) -> LatencyGate | None:
        """Measures the latency of a trial before anything is trained; None where latency does not matter."""
        if not self.wants_latency(limits):
            return None
        return LatencyGate(latencies=self.latencies, full=self.space.full, limit_ms=limits.get("latency_ms"))

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
        )

    def proxies(self, methods: Sequence[str] = ()) -> pd.DataFrame:
        """As `Study.proxies`."""
        rankings = {self.ranking: self.scores}
        for name in self.artifacts.rankings():
            rankings[name] = self.artifacts.scores_of(name) or self.scores
        whole = Aim(limits={"macs": self.space.full_costs["macs"]})
        for name in methods:
            rankings[name] = self.pruning.propose(method_named(name), whole).scores
        return proxy_table(self.ledger.trials, self.space, rankings)

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
            device=self.search.torch_device,
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
