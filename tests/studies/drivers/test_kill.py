"""A search that is killed and resumed ends with the same trials as one that is not."""

import itertools
import multiprocessing
import os
import random
import signal
import threading

import pandas as pd
import pytest
import torch
from killing import kill_often, study_in, table

from secateur.studies.trials.events import TrialEnded


def _search(folder, trials, told, delay_s):
    """Goes on with the search, and is killed `delay_s` after so many more trials were told: in the midst of one."""
    torch.set_num_threads(1)
    heard = itertools.count(1)

    def kill_in_time(event):
        if isinstance(event, TrialEnded) and next(heard) == told:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()

    study_in(folder).run(trials, progress=kill_in_time)


def test_killed_search_equals_uninterrupted_one(tmp_path):
    """Short version: children of this process, so that each life costs no start-up."""
    trials, ends, moments = 40, [], random.Random(0)
    straight = study_in(tmp_path / "straight")
    straight.run(trials)
    study_in(tmp_path / "killed")
    fork = multiprocessing.get_context("fork")
    for _ in range(4):
        more = (tmp_path / "killed", trials, moments.randint(1, 4), moments.uniform(0, 0.02))
        process = fork.Process(target=_search, args=more)
        process.start()
        process.join()
        ends.append(process.exitcode)
    study_in(tmp_path / "killed").run(trials)
    assert ends == [-signal.SIGKILL] * 4
    pd.testing.assert_frame_equal(table(study_in(tmp_path / "killed")), table(straight))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_twenty_kills_of_an_instant_search(tmp_path, sampler):
    straight = study_in(tmp_path / "straight", sampler)
    straight.run(120)
    assert kill_often(tmp_path / "killed", kills=20, trials=120, sampler=sampler, longest_s=0.4) > 0
    pd.testing.assert_frame_equal(table(study_in(tmp_path / "killed")), table(straight))


@pytest.mark.slow
def test_five_kills_of_real_training(tmp_path):
    straight = study_in(tmp_path / "straight", real=True)
    straight.run(40)
    assert kill_often(tmp_path / "killed", kills=5, trials=40, real=True, longest_s=0.8) > 0
    pd.testing.assert_frame_equal(table(study_in(tmp_path / "killed", real=True)), table(straight))
