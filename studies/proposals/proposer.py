"""What to try next: a seed, or what a sampler asks for, brought within the budget and never a second time.

Everything here is arithmetic: nothing is built or measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState, create_trial

from ...evaluators.modes import seed_of
from ...search import NOTE, Problem, SamplerFactory, check_sampler, distributions
from ...search.problem import quiet
from ...spaces import Axis, Candidate, Space
from ..disk.artifacts import INHERITED, PARENT
from ..trials.trial import ENQUEUED, REFERENCE, Failed, Scored, Skipped, Trial
from .seeds import MOST, Maker, Seed, planted

Kind = tuple[str, str, str]
"""Ranking, weights, fidelity."""

_ATTEMPTS = 3  # how often a sampler is asked before something near its last wish is taken


class Proposer:
    """Proposes a study's trials by number; the same ledger gives the same proposal.

    Args:
        problem: what is searched.
        factory: makes a sampler.
        seeds: the seed that a trial of this number tries, None where there is none.
        ranking: name and digest of the scores.
        fidelity: how well each candidate is trained.
        weights: where the weights come from, unless a seed or a sampler says otherwise.
    """

    def __init__(
        self,
        *,
        problem: Problem,
        factory: SamplerFactory,
        seeds: Callable[[int], Seed | None],
        ranking: str,
        fidelity: str,
        weights: str = INHERITED,
    ) -> None:
        self._problem = problem
        self._space = problem.space
        self._view = SamplerView(problem, factory)
        self._seeds = seeds
        self._limits = dict(problem.limits)
        self._kind = (ranking, weights, fidelity)
        self._taken: dict[tuple[Candidate, str, str, str], Trial] = {}
        self._enqueued = 0

    def propose(self, number: int, enqueued: Sequence[Seed] = ()) -> Trial | None:
        """Trial `number`, not yet in the ledger; None when every candidate within the budget was tried.

        Args:
            number: of the trial.
            enqueued: what the user wants tried before anything else, in order.
        """
        for source, asked, candidate, kind in self._wishes(number, enqueued):
            if not self._is_taken(candidate, kind):
                memory = self._view.resolve(number, candidate, forget=_untrue(source, asked, candidate))
                return self._keep(self._trial(number, source, asked, candidate, kind, memory))
        return None

    def recall(self, trials: Sequence[Trial], told: Sequence[Trial] = ()) -> None:
        """Take trials of the ledger for those so far; samplers see the outcomes of `told`, which are whole batches."""
        self._view.replay(trials)
        for trial in trials:
            self._keep(trial)
        if told:
            self._view.close(told, self._limits)

    def after(self, trial: Trial) -> dict[str, object]:
        """What the sampler notes on a trial that just ended."""
        return self._view.after(trial)

    def close(self, batch: Iterable[Trial]) -> None:
        """A batch is told, whole: samplers see its outcomes from now on."""
        batch = list(batch)
        for trial in batch:
            self._keep(trial)
        self._view.close(batch, self._limits)

    def _wishes(self, number: int, enqueued: Sequence[Seed]) -> Iterator[tuple[str, Candidate, Candidate, Kind]]:
        """Source, asked and repaired candidate, and how it is built, best first."""
        # A sampler is asked even where a seed is tried: a genetic one enters its generations only this way.
        asked = self._view.ask(number, 0)
        seed = self._seeds(number - self._enqueued)  # what was enqueued takes no seed's place
        for source, one in [*((ENQUEUED, one) for one in enqueued), *([] if seed is None else [("seed", seed)])]:
            candidate = one.candidate
            if one.weights == INHERITED and candidate != self._space.full:
                candidate = self._problem.repair(candidate)  # where a latency is predicted, seeds know nothing of it
            yield f"seed:{one.name}" if source == "seed" else source, one.candidate, candidate, self._planted(one)
        for attempt in range(1, _ATTEMPTS + 1):
            # A reference teaches the sampler what lies beyond the budget; it never counts as found.
            reference = self._view.noted(number, "reference")
            candidate = self._space.canonical(asked) if reference else self._problem.repair(asked)
            source = REFERENCE if reference else "sampler"
            yield source, asked, candidate, self._asked_kind(number, asked == candidate)
            if attempt < _ATTEMPTS:
                asked = self._view.ask(number, attempt)
        random = np.random.default_rng(seed_of(self._problem.seed, number, _ATTEMPTS))
        kind = self._asked_kind(number, False)
        for near in self._around(self._problem.repair(asked), random):
            yield "near", asked, near, kind

    def _planted(self, seed: Seed) -> Kind:
        """How a seed is built; weights that candidates share belong to one ranking, so there only its widths count."""
        ranking, weights, fidelity = self._kind
        return self._kind if weights != INHERITED else (seed.ranking or ranking, seed.weights, fidelity)

    def _asked_kind(self, number: int, as_asked: bool) -> Kind:
        """How the sampler wants its candidate built; a parent's weights fit what it asked for and nothing else."""
        ranking, weights, fidelity = self._kind
        wanted = self._view.noted(number, "weights")
        if wanted is None or (wanted.startswith(PARENT) and not as_asked):
            return self._kind
        return ranking, wanted, fidelity

    def _around(self, start: Candidate, random: np.random.Generator) -> Iterator[Candidate]:
        """Candidates further and further from one that was tried, until the caller takes one; all within the limits.

        Only steps between tried ones lead on: the caller takes the first that is new. A larger choice never costs less,
        so from anywhere within the limits such steps lead down to the smallest, and from there to all others.
        """
        ring, seen = [start], {start}
        while ring:
            ring = list(dict.fromkeys(near for one in ring for near in self._neighbours(one) if near not in seen))
            seen.update(ring)
            ring = [ring[i] for i in random.permutation(len(ring))]
            yield from ring

    def _neighbours(self, candidate: Candidate) -> list[Candidate]:
        """Everything within the limits and one step on one axis away, whatever stands within removed blocks."""
        steps = [step for start in (candidate, self._slimmest(candidate)) for step in self._steps(start)]
        fine = self._problem.within(self._space.encode(steps))
        return [self._space.canonical(step) for step, good in zip(steps, fine, strict=True) if good]

    def _steps(self, candidate: Candidate) -> Iterator[Candidate]:
        for i, axis in enumerate(self._space.axes):
            at = axis.choices.index(candidate[i])
            for near in (at - 1, at + 1):
                if 0 <= near < len(axis.choices):
                    yield Candidate((*candidate[:i], axis.choices[near], *candidate[i + 1 :]))

    def _slimmest(self, candidate: Candidate) -> Candidate:
        """The same network by another name: widths within removed blocks at their least, not at their full."""
        values = list(candidate)
        for i, axis in enumerate(self._space.axes):
            least = Candidate((*values[:i], axis.choices[0], *values[i + 1 :]))
            if axis.kind == "width" and self._space.canonical(least) == candidate:
                values[i] = axis.choices[0]
        return Candidate(values)

    def _trial(
        self,
        number: int,
        source: str,
        asked: Candidate,
        candidate: Candidate,
        kind: Kind,
        memory: Mapping[str, object],
    ) -> Trial:
        ranking, weights, fidelity = kind
        table = self._space.cost_table(np.array([candidate], np.int64))
        return Trial(
            number=number,
            candidate=candidate,
            asked=asked,
            source=source,
            ranking=ranking,
            weights=weights,
            fidelity=fidelity,
            costs={name: int(column[0]) for name, column in table.items()},
            memory=dict(memory),
        )

    def _is_taken(self, candidate: Candidate, kind: Kind) -> bool:
        found = self._taken.get((candidate, *kind))
        if found is None:
            return False
        # What was skipped under a tighter latency budget may be tried under today's.
        return not (isinstance(found.outcome, Skipped) and found.within(self._limits))

    def _keep(self, trial: Trial) -> Trial:
        identity = trial.candidate, trial.ranking, trial.weights, trial.fidelity
        if trial.source == ENQUEUED and identity not in self._taken:
            self._enqueued += 1
        self._taken[identity] = trial
        return trial


def _untrue(source: str, asked: Candidate, candidate: Candidate) -> str | None:
    """How the sampler's notes begin that do not hold for what is tried in place of what it asked for."""
    if source.startswith("seed:") or source == ENQUEUED:
        return NOTE
    return None if asked == candidate else f"{NOTE}predicted"


class Seeds:
    """The seeds of a study by trial number, made when they are first asked for; arguments as of `planted`."""

    def __init__(
        self, seeds: Sequence[str | Candidate], space: Space, limits: Mapping[str, float], make: Maker
    ) -> None:
        self._most = sum(MOST if isinstance(one, str) and one != "full" else 1 for one in seeds)
        self._left = planted(seeds, space, limits, make)
        self._found: list[Seed] = []

    def __call__(self, number: int) -> Seed | None:
        """The seed that trial `number` tries."""
        if number >= self._most:  # of a study that has more trials than seeds, none is made
            return None
        while len(self._found) <= number:
            seed = next(self._left, None)
            if seed is None:
                return None
            if all(
                (one.candidate, one.ranking, one.weights) != (seed.candidate, seed.ranking, seed.weights)
                for one in self._found
            ):
                self._found.append(seed)
        return self._found[number]


class SamplerView:
    """A sampler's view of a study; trials enter as running, in number order, and are closed a batch at a time."""

    def __init__(self, problem: Problem, factory: SamplerFactory) -> None:
        self._problem = problem
        self._axes = problem.space.axes
        self._objectives = problem.objectives
        self._factory = factory
        self._storage = _Forgetful()
        self._distributions = distributions(self._axes)
        self._ids: list[int] = []  # of the trials, by number
        with quiet():
            self._id = self._storage.create_new_study([StudyDirection.MINIMIZE] * len(self._objectives), "sampler view")

    def ask(self, number: int, attempt: int) -> Candidate:
        """What a fresh sampler wants to try as trial `number`, the next one; attempts count from 0."""
        if attempt == 0:
            self._ids.append(self._storage.create_new_trial(self._id))
        trial = self._storage.get_trial(self._ids[number])
        # A new attempt finds a new trial. No call takes a note back, but memory hands out its own (Optuna 5.0).
        trial.system_attrs.clear()
        trial.params.clear()
        sampler, study = self._sampler(number, attempt)
        sampler.before_trial(study, trial)
        joint = sampler.infer_relative_search_space(study, trial)
        # Also where the space is still empty: this is where a genetic sampler puts a trial into a generation.
        asked = sampler.sample_relative(study, trial, joint)
        for axis in self._axes:
            if len(axis.choices) == 1:
                asked[axis.name] = 0
            elif axis.name not in asked:
                # As Optuna's `suggest` does: a grid reads its notes of the trial, an enumeration what was drawn before.
                trial, distribution = self._storage.get_trial(trial._trial_id), self._distributions[axis.name]
                asked[axis.name] = sampler.sample_independent(study, trial, axis.name, distribution)
                internal = _position(sampler, axis, asked[axis.name])
                self._storage.set_trial_param(trial._trial_id, axis.name, internal, distribution)
        return Candidate([axis.choices[_position(sampler, axis, asked[axis.name])] for axis in self._axes])

    def noted(self, number: int, key: str) -> Any:
        """What a sampler of ours noted under a key on the trial that was asked for; None where it did not."""
        return self._notes(self._ids[number]).get(NOTE + key)

    def resolve(self, number: int, candidate: Candidate, *, forget: str | None = None) -> dict[str, Any]:
        """Give the trial that was asked for its final parameters; returns what the sampler noted on it.

        Args:
            number: of the trial.
            candidate: what it tries.
            forget: how the notes begin that are not true of this candidate.
        """
        trial_id = self._ids[number]
        if forget is not None:
            notes = self._storage.get_trial(trial_id).system_attrs  # memory hands out its own, as in `ask`
            for key in [key for key in notes if key.startswith(forget)]:
                del notes[key]
        for name, position in self._problem.params(candidate).items():
            distribution = self._distributions[name]
            internal = distribution.to_internal_repr(position)
            self._storage.set_trial_param(trial_id, name, internal, distribution)
        return self._notes(trial_id)

    def replay(self, trials: Iterable[Trial]) -> None:
        """Enter trials of the ledger as running."""
        for trial in trials:
            row = create_trial(
                state=TrialState.RUNNING,
                params=self._problem.params(trial.candidate),
                distributions=self._distributions,
                system_attrs=dict(trial.memory),
            )
            self._ids.append(self._storage.create_new_trial(self._id, row))

    def after(self, trial: Trial) -> dict[str, Any]:
        """Let a sampler take note of a trial's outcome; returns all that samplers noted on it."""
        complete = not isinstance(trial.outcome, Failed)
        sampler, study = self._sampler(trial.number, 0)
        trial_id = self._ids[trial.number]
        state = TrialState.COMPLETE if complete else TrialState.FAIL
        values = trial.values(self._objectives) if complete else None
        sampler.after_trial(study, self._storage.get_trial(trial_id), state, values)
        return self._notes(trial_id)

    def close(self, trials: Iterable[Trial], limits: Mapping[str, float]) -> None:
        """Show a batch's outcomes from now on, in number order, measured against today's limits."""
        study = self._view(RandomSampler(seed=0))
        for trial in trials:
            trial_id = self._ids[trial.number]
            if isinstance(trial.outcome, Failed):
                self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
                continue
            self._storage.set_trial_user_attr(trial_id, "evaluated", isinstance(trial.outcome, Scored))
            if trial.error_std is not None:
                self._storage.set_trial_user_attr(trial_id, "error_std", trial.error_std)
            row = optuna.trial.Trial(study, trial_id)
            for name, value in trial.constraints(limits).items():
                row.set_constraint(name, value)
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, trial.values(self._objectives))

    def _sampler(self, number: int, attempt: int) -> tuple[BaseSampler, Study]:
        sampler = check_sampler(self._factory(seed_of(self._problem.seed, number, attempt), self._problem))
        return sampler, self._view(sampler)

    def _view(self, sampler: BaseSampler) -> Study:
        """A new object each time: Optuna caches the trials within one, and only its own ask and tell clear that."""
        self._storage.forget()
        study = optuna.load_study(study_name="sampler view", storage=self._storage, sampler=sampler, pruner=NopPruner())
        study._thread_local.in_optimize_loop = True  # a grid that is tried whole stops the study, which only means it
        return study

    def _notes(self, trial_id: int) -> dict[str, Any]:
        return dict(self._storage.get_trial(trial_id).system_attrs)


def _position(sampler: BaseSampler, axis: Axis, asked: object) -> int:
    """What a sampler asked for on an axis, if there is such a choice.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(asked, SupportsIndex) or not 0 <= asked.__index__() < len(axis.choices):
        raise ValueError(
            f"the sampler {type(sampler).__name__} proposed {asked!r} on {axis.name}; expected a whole number of 0 to "
            f"{len(axis.choices) - 1}, the place of one of its choices"
        )
    return asked.__index__()


class _Forgetful(InMemoryStorage):
    """Storage that forgets what samplers note on the study as soon as the next one is made.

    Optuna's genetic samplers keep the parents of a generation there, in one order when chosen and in another when
    recalled (Optuna 5.0): what is proposed would depend on which process asked first. They choose again when they find
    nothing, from the told trials alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._notes: dict[str, Any] = {}

    def forget(self) -> None:
        self._notes = {}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._notes[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._notes)
