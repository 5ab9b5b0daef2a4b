"""What a study relies on in a task. Start at `TaskContract`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..evaluators import Metric, Task, check_task
from ..evaluators.tasks.task import abilities
from .promises import untouched


class TaskContract:
    """Tests of a task with a network that it is for.

    Attributes:
        resolution: of what the network is shown; None as stored.
    """

    resolution: tuple[int, ...] | None = None

    def task(self) -> Task:
        """A task, made again from the same data: override this."""
        raise NotImplementedError("say how your task is made: def task(self)")

    def model(self) -> nn.Module:
        """A network that the task is for: override this."""
        raise NotImplementedError("give a network that your task is for: def model(self)")

    def test_a_study_takes_it(self) -> None:
        """It has what every task has, and what it has beside that can be called."""
        check_task(self.task())

    def test_equal_arguments_give_equal_batches(self) -> None:
        """Whatever was drawn before; global generators stay as they are."""
        task = self.task()
        for split, seed in (("train", None), ("train", 3), *((split, None) for split in self._held(task))):
            with untouched():
                first, again = (self._shown(task, split, seed) for _ in range(2))
            assert _equal(first, again), f"{split} with the seed {seed} gave other batches the second time"

    def test_a_seed_shuffles_what_is_learned_from(self) -> None:
        """Seeds give orders, or augmentations, of their own."""
        task = self.task()
        orders = [self._shown(task, "train", seed) for seed in range(4)]
        assert not all(_equal(orders[0], other) for other in orders[1:]), "four seeds gave one and the same training"

    def test_its_sizes_are_those_of_its_splits(self) -> None:
        """Targets have the length of their batch; a smaller last training batch may be left out."""
        task = self.task()
        held = {split: sum(len(targets) for _, targets in self._shown(task, split)) for split in self._held(task)}
        assert held == {split: task.sizes[split] for split in held}
        assert 0 < sum(len(targets) for _, targets in self._shown(task, "train")) <= task.sizes["train"]

    def test_its_preprocessing_is_json(self) -> None:
        """It is written beside every exported network."""
        preprocessing = dict(self.task().preprocessing)
        assert json.loads(json.dumps(preprocessing)) == preprocessing

    def test_its_loss_can_be_lowered(self) -> None:
        """A finite scalar, from which gradients reach the network."""
        task, model = self.task(), self.model()
        outputs, targets = task.forward(model, next(iter(task.loader("train", self.resolution, 0))))
        loss = task.loss(outputs, targets)
        assert loss.ndim == 0 and loss.isfinite(), f"the loss is {loss}"
        loss.backward()  # type: ignore[no-untyped-call]
        assert any(parameter.grad is not None for parameter in model.parameters()), "no parameter has a gradient"

    def test_its_error_adds_up(self) -> None:
        """Over the batches of a split, from nothing each time; lower is better, so it is no less than 0."""
        task = self.task()
        one, two = self._error(task), self._error(task)
        assert one.compute() == two.compute() and one.count == task.sizes["validation"]
        assert math.isfinite(one.compute()) and one.compute() >= 0 and (one.std() or 0.0) >= 0

    def test_its_fingerprint_stays(self) -> None:
        """A study is resumed with the same task, made again."""
        assert self.task().fingerprint == self.task().fingerprint

    def test_it_travels(self) -> None:
        """To workers in other processes, and shows there what it shows here."""
        task = self.task()
        there = cloudpickle.loads(cloudpickle.dumps(task))
        assert there.fingerprint == task.fingerprint
        assert _equal(self._shown(there, "validation"), self._shown(task, "validation"))

    def test_a_batch_is_the_sum_of_its_parts(self) -> None:
        """Where it has `split`: each part with its number of examples, in order."""
        task = self.task()
        if (split := abilities(task).split) is not None:
            batch = next(iter(task.loader("train", self.resolution, 0)))
            parts = list(split(batch, 2))
            whole = self._forward(task, batch)[1]
            targets = [self._forward(task, part)[1] for part, _ in parts]
            assert [len(one) for one in targets] == [count for _, count in parts]
            assert sum(count for _, count in parts) == len(whole)

    def test_another_size_of_batches_is_the_same_data(self) -> None:
        """Where it has `with_batch`."""
        task = self.task()
        if (with_batch := abilities(task).with_batch) is not None:
            other = with_batch(2)
            assert other.sizes == task.sizes
            assert all(len(targets) <= 2 for _, targets in self._shown(other, "validation"))
            found, again = self._error(other).compute(), self._error(task).compute()
            assert math.isclose(found, again, rel_tol=1e-5), f"the error is {again}, in smaller batches {found}"

    def test_a_teacher_can_be_learned_from(self) -> None:
        """Where it has `distill`: a finite scalar, from which gradients reach the network."""
        task, model = self.task(), self.model()
        if (distill := abilities(task).distill) is not None:
            outputs, _ = task.forward(model, next(iter(task.loader("train", self.resolution, 0))))
            answers = outputs.detach() if isinstance(outputs, Tensor) else outputs
            distance = distill(outputs, answers, 2.0)
            assert distance.ndim == 0 and distance.isfinite() and distance.requires_grad

    def test_what_is_stored_is_all_that_is_learned_from(self) -> None:
        """Where it has `stored`, and gives batches."""
        task = self.task()
        stored = abilities(task).stored
        if stored is not None and (batches := stored(self.resolution)) is not None:
            assert sum(len(self._forward(task, batch)[1]) for batch in batches) == task.sizes["train"]

    def _held(self, task: Task) -> list[str]:
        return [split for split in ("validation", "test") if task.sizes.get(split)]

    def _forward(self, task: Task, batch: Any) -> tuple[Any, Any]:
        with torch.no_grad():
            return task.forward(self._network(), batch)

    def _network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.model().eval()

    def _shown(self, task: Task, split: str, seed: int | None = None) -> list[tuple[Any, Any]]:
        """Outputs and targets of every batch of a split."""
        network = self._network()
        with torch.no_grad():
            return [task.forward(network, batch) for batch in task.loader(split, self.resolution, seed)]

    def _error(self, task: Task) -> Metric:
        error = task.error()
        for outputs, targets in self._shown(task, "validation"):
            error.update(outputs, targets)
        return error


def _equal(one: list[tuple[Any, Any]], two: list[tuple[Any, Any]]) -> bool:
    return len(one) == len(two) and all(_same(a, b) for a, b in _pairs(one, two))


def _pairs(one: Any, two: Any) -> Iterator[tuple[Any, Any]]:
    mine, theirs = tree_leaves(one), tree_leaves(two)
    return zip(mine, theirs, strict=True) if len(mine) == len(theirs) else iter([(0, 1)])


def _same(one: Any, two: Any) -> bool:
    return torch.equal(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else bool(one == two)
