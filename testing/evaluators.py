"""What a study relies on in an evaluator. Start at `EvaluatorContract`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import cloudpickle
from torch import nn

from ..evaluators import Context, Origin, Result, checked_evaluator
from ..spaces import Space, build
from .promises import untouched
from .toys import tiny_net, tiny_space


class EvaluatorContract:
    """Tests of an evaluator, which is asked about one smaller network.

    Attributes:
        fidelity: as it is asked.
    """

    fidelity = "short"

    def evaluator(self) -> Callable[..., Result]:
        """An evaluator: override this."""
        raise NotImplementedError("say how your evaluator is made: def evaluator(self)")

    def subject(self) -> tuple[nn.Module, Space]:
        """The full network and its space: override it where your evaluator's data are not `tiny_task`'s."""
        model = tiny_net()
        return model, tiny_space(model)

    def test_its_answer_is_a_result(self) -> None:
        """An error that is a number, or a reason why there is none; and what else a trial's record can hold."""
        result = self._result()
        assert isinstance(result, Result), f"{result!r} is no Result"
        assert result.state in ("complete", "failed"), f"state is {result.state!r}; expected complete or failed"
        assert math.isfinite(result.error) if result.state == "complete" else result.reason
        assert result.seconds >= 0 and (result.error_std is None or result.error_std >= 0)
        assert json.loads(json.dumps(dict(result.attributes), allow_nan=False)) == dict(result.attributes)

    def test_equal_seeds_give_equal_errors(self) -> None:
        """A trial that is done again, wherever, gives what it gave."""
        one, two = self._result(seed=3), self._result(seed=3)
        assert one.error == two.error or one.state == two.state == "failed"

    def test_the_full_network_stays_as_it_was(self) -> None:
        """What `build` gives is the evaluator's own; the full network and the global generators are shared."""
        model, _ = self.subject()
        with untouched(model):
            self._result(model=model)

    def test_its_weights_are_those_of_the_network(self) -> None:
        """Where it gives any: the study keeps them for the export."""
        model, space = self.subject()
        if (weights := self._result().weights) is not None:
            build(model, space, space.uniform(0.5)).load_state_dict(dict(weights))
            assert all(tensor.device.type == "cpu" for tensor in weights.values())

    def test_it_ends_where_it_is_told_to(self) -> None:
        """Where it reports rungs: an early stop is one, and says where."""
        seen: list[str] = []

        def report(rung: str, error: float) -> bool:
            seen.append(rung)
            return True

        result = self._result(report=report)
        if seen:
            assert result.rung == seen[0] and len(seen) == 1, f"told to end at {seen[0]}, it went on to {seen[1:]}"

    def test_it_travels(self) -> None:
        """To workers in other processes, and answers there as it does here."""
        there = cloudpickle.loads(cloudpickle.dumps(self.evaluator()))
        assert self._result(there).error == self._result().error

    def _result(
        self,
        evaluator: Callable[..., Result] | None = None,
        *,
        model: nn.Module | None = None,
        seed: int = 0,
        report: Callable[[str, float], object] = lambda rung, error: False,
    ) -> Result:
        full, space = self.subject()
        candidate = space.uniform(0.5)
        asked: dict[str, Any] = {"candidate": candidate, "resolution": space.side(candidate), "fidelity": self.fidelity}
        return checked_evaluator(self.evaluator() if evaluator is None else evaluator)(
            lambda: build(full if model is None else model, space, candidate),
            **asked,
            seed=seed,
            report=report,
            context=Context(origin=Origin(model=full if model is None else model, space=space, candidate=candidate)),
        )
