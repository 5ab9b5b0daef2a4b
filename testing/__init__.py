"""Contract suites: what Secateur relies on in a piece that you write, as tests that you inherit.

A suite is a class of tests. Derive from it in a test file, say how your piece is made, and let pytest collect it:

    from secateur.testing import SamplerContract

    class TestMine(SamplerContract):
        def sampler(self, seed, problem):
            return Mine(seed, problem)

The pieces that come with Secateur pass the same suites. Each suite's docstring says what else may be overridden: the
networks or spaces it tries, and how long. Start reading at `samplers.py`, or at the suite of the piece you write;
`toys` holds the small networks and landscapes that suites try pieces on where you give none.
"""

from __future__ import annotations

from .criteria import CriterionContract
from .evaluators import EvaluatorContract
from .pruners import PrunerContract
from .runners import RunnerContract
from .samplers import SamplerContract
from .tasks import TaskContract

__all__ = [
    "CriterionContract",
    "EvaluatorContract",
    "PrunerContract",
    "RunnerContract",
    "SamplerContract",
    "TaskContract",
]
