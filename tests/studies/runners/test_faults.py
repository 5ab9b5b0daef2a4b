"""Trials whose code ends the whole process: told by the next run, once, and the search goes on."""

import ctypes
import faulthandler
import multiprocessing
import os
import signal

import pytest
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task

from secateur import Budget, Study
from secateur.studies.runners.executor import FAULTS

MODEL, TASK, SPACE = tiny_net(), tiny_task(), tiny_space(tiny_net())
ENDS = {"fault": lambda: ctypes.string_at(0), "kill": lambda: os.kill(os.getpid(), signal.SIGKILL)}


class Falling:
    """Ends its process at every trial but that of the full network."""

    fingerprint = "falling"

    def __init__(self, end):
        self.end, self.instant = end, Instant(SPACE)

    def __call__(self, build, *, candidate, **further):
        if candidate != SPACE.full:
            ENDS[self.end]()
        return self.instant(build, candidate=candidate, **further)


def fallen(folder, end, trials=3):
    """How the process of a run ended."""

    def run():
        faulthandler.disable()  # pytest has its own
        Study.open(folder, model=MODEL, task=TASK, evaluator=Falling(end)).run(trials)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return -process.exitcode


@pytest.fixture
def folder(tmp_path):
    Study.create(
        tmp_path / "s",
        **searching({"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(), "evaluator": Falling("fault")}),
    )
    return tmp_path / "s"


def test_a_trial_that_ends_its_process_is_a_failed_one(folder):
    """Each run tells the fault of the one before and goes on; the last has nothing left to fall over."""
    assert [fallen(folder, "fault") for _ in range(3)] == [signal.SIGSEGV, signal.SIGSEGV, 0]
    trials = Study.look(folder).trials()
    assert trials.state.tolist() == ["complete", "failed", "failed"]
    assert trials.reason[1].startswith("it ended its process: Segmentation fault, in string_at (__init__.py, line ")
    assert not (folder / FAULTS).exists()


def test_a_trial_that_was_killed_is_tried_again(folder):
    assert [fallen(folder, "kill") for _ in range(3)] == [signal.SIGKILL] * 3
    assert Study.look(folder).trials().state.tolist() == ["complete", "running", "running"]


@pytest.mark.parametrize("text", ["", "trial 1\n", "trial x\nFatal Python error: Aborted\n", "\0" * 9])
def test_what_tells_no_fault_is_as_nothing(folder, text):
    (folder / FAULTS).write_text(text)
    Study.open(folder, model=MODEL, task=TASK, evaluator=Falling("fault")).run(1)
    assert Study.look(folder).trials().state.tolist() == ["complete"]
