"""What a study relies on in a runner. Start at `RunnerContract`."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluators import Result, Training
from ..spaces import Budget
from ..studies import Runner, Search, Study
from ..studies.runners.executor import Executor
from .promises import assert_alike
from .toys import Instant, tiny_net, tiny_space, tiny_task


class RunnerContract:
    """Tests of a runner by small searches: what it runs is what a serial search would have found.

    Attributes:
        trials: how many each search has.
    """

    trials = 6

    def runner(self) -> str | Runner | Executor:
        """What `Study.run` takes: its settings, or an executor that is not open yet. Override this."""
        raise NotImplementedError("say how your runner is made: def runner(self)")

    def test_its_trials_are_those_of_a_serial_search(self) -> None:
        """Candidates, errors and all else that does not depend on time; also of networks that are really trained."""
        for evaluator in ("instant", "auto"):
            with tempfile.TemporaryDirectory() as folder:
                straight, other = (_study(Path(folder) / name, evaluator) for name in ("a", "b"))
                straight.run(self.trials)
                other.run(self.trials, runner=self.runner())
                assert_alike(other, straight)

    def test_a_search_goes_on_with_it(self) -> None:
        """One after another, and after other runners."""
        with tempfile.TemporaryDirectory() as folder:
            straight, other = (_study(Path(folder) / name) for name in ("a", "b"))
            straight.run(self.trials + 2)
            other.run(2, runner=self.runner())
            other.run(4)
            other.run(self.trials + 2, runner=self.runner())
            assert_alike(other, straight)

    def test_what_ends_a_serial_search_ends_it(self) -> None:
        """At the same trial; and it goes on from there as that one does."""
        with tempfile.TemporaryDirectory() as folder:
            first, straight, other = (_study(Path(folder) / name) for name in ("a", "b", "c"))
            first.run(self.trials)
            until = float(first.front().error.min())
            straight.run(until=until)
            other.run(40, until=until, runner=self.runner())
            assert_alike(other, straight)
            ended = other.status().ended
            assert ended is not None and ended["by"] == "until"

    def test_what_raises_is_one_failed_trial(self) -> None:
        """With its reason; the others are as they would have been."""
        with tempfile.TemporaryDirectory() as folder:
            straight, other = (_study(Path(folder) / name, "odd") for name in ("a", "b"))
            straight.run(self.trials)
            other.run(self.trials, runner=self.runner())
            assert set(other.trials().state) == {"complete", "failed"}
            assert_alike(other, straight)

    def test_it_leaves_nothing_behind(self) -> None:
        """No thread and no child process of its own."""
        with tempfile.TemporaryDirectory() as folder:
            study = _study(Path(folder) / "a")
            study.run(2, runner=self.runner())  # what is kept for the next run is there now
            threads, children = threading.active_count(), len(multiprocessing.active_children())
            study.run(4, runner=self.runner())
            assert threading.active_count() <= threads
            assert len(multiprocessing.active_children()) <= children


@dataclass(frozen=True)
class Odd:
    """An evaluator that raises for every other candidate."""

    inner: Instant

    @property
    def fingerprint(self) -> str:
        """Its own."""
        return f"odd {self.inner.fingerprint}"

    def __call__(self, build: Callable[[], Any], **asked: Any) -> Result:
        """The error, where the candidate's numbers have an even sum of halves."""
        if sum(asked["candidate"]) // 2 % 2:
            raise ValueError("an odd network")
        return self.inner(build, **asked)


def _study(folder: Path, evaluator: str = "instant") -> Study:
    model = tiny_net()
    space = tiny_space(model)
    given: dict[str, Any] = {"instant": Instant(space), "odd": Odd(Instant(space)), "auto": "auto"}
    return Study.create(
        folder,
        model=model,
        task=tiny_task(),
        space=space,
        budget=Budget(macs=0.5),
        training=Training(lr=0.05, short_epochs=1, long_epochs=2, recalibration_images=64),
        search=Search(sampler="tpe", threads=1, evaluator=given[evaluator]),
    )
