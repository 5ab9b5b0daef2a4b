"""A search that is killed and resumed ends with the same trials as one that is not."""

import multiprocessing
import os
import random
import signal
import time

import pandas as pd
import pytest
import torch
from killing import kill_often, study_in, table


def _search(folder, trials):
    torch.set_num_threads(1)
    study_in(folder).run(trials)


def test_killed_search_equals_uninterrupted_one(tmp_path):
    """Short version: children of this process, so that each life costs no start-up."""
    trials, kills, moments = 24, 0, random.Random(0)
    straight = study_in(tmp_path / "straight")
    straight.run(trials)
    study_in(tmp_path / "killed")
    fork = multiprocessing.get_context("fork")
    for _ in range(4):
        process = fork.Process(target=_search, args=(tmp_path / "killed", trials))
        process.start()
        time.sleep(moments.uniform(0.3, 1.0))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    study_in(tmp_path / "killed").run(trials)
    assert kills
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
