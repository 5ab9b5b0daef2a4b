"""Our runners keep the contract that every runner must; Ray's are in `test_ray.py` and `test_tuning.py`."""

import pytest

from secateur import Processes, Serial
from secateur.testing import RunnerContract


class TestRunners(RunnerContract):
    @pytest.fixture(autouse=True, params=[Serial(), Processes(workers=2)], ids=["serial", "processes"])
    def chosen(self, request):
        self.chosen = request.param

    def runner(self):
        return self.chosen
