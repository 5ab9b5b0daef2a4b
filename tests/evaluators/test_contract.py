"""Our evaluators keep the contract that every evaluator must."""

import pytest
from landscapes import Instant, tiny_net, tiny_space, tiny_task, tiny_training

from secateur.evaluators import Ladder
from secateur.testing import EvaluatorContract


class TestLadder(EvaluatorContract):
    @pytest.fixture(autouse=True, params=["recalibrated", "reconstructed", "short", "long"])
    def asked(self, request):
        self.fidelity = request.param

    def evaluator(self):
        return Ladder(tiny_task(), tiny_training())


class TestLadderWithProxy(EvaluatorContract):
    fidelity = "zero-shot"

    def evaluator(self):
        return Ladder(tiny_task(), tiny_training(), proxy=Size())


class Size:
    """The smaller the better."""

    def __call__(self, candidate):
        return float(sum(candidate))


class TestInstant(EvaluatorContract):
    def evaluator(self):
        return Instant(tiny_space(tiny_net()))
