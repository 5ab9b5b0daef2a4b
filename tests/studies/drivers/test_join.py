"""Several drivers on one study: none of its trials is doubled, and none is lost."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass

import pytest
from landscapes import Instant, tiny_net, tiny_space, tiny_task
from postgresql import Server, missing

from secateur import Budget, Study
from secateur.studies.drivers import crew as crews
from secateur.studies.trials.storage import disconnect

MODEL, TASK = tiny_net(), tiny_task()
SPACE = tiny_space(MODEL)
SERVER = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@dataclass(frozen=True)
class Noted:
    """Answers by formula, after a while, and leaves a line for every evaluation."""

    instant: Instant
    file: str
    seconds: float
    fingerprint: str = "noted"

    def __call__(self, build, *, candidate, seed, **given):
        time.sleep(random.uniform(0, 2 * self.seconds))
        with open(self.file, "a") as file:
            file.write(f"{os.getpid()} {candidate.key}\n")
        return self.instant(build, candidate=candidate, seed=seed, **given)


def create(path, evaluator, **changes):
    given = {"model": MODEL, "task": TASK, "space": SPACE, "budget": Budget(macs=0.6), "threads": 1}
    return Study.create(path, **{**given, "sampler": "random", "evaluator": evaluator, **changes})


def reopen(path, evaluator, **changes):
    return Study.open(path, model=MODEL, task=TASK, evaluator=evaluator, **changes)


def _drive(path, url, evaluator, trials):
    crews.BEAT_S, crews.LEASE_S = 0.5, 5.0
    reopen(path, evaluator, storage=url).run(trials, join=True)


def _started(*given):
    process = multiprocessing.get_context("fork").Process(target=_drive, args=given)
    process.start()
    return process


@pytest.fixture(scope="module")
def server():
    with Server() as started:
        yield started


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [None, "journal:study.journal"])
def test_files_are_not_shared(tmp_path, storage):
    study = create(tmp_path / "s", Instant(SPACE), storage=storage)
    with pytest.raises(ValueError, match="join=True needs a database server, and the trials of .* are in a file"):
        study.run(2, join=True)
    assert len(study.trials()) == 0


@SERVER
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["three-dimensions", "joint"])
def test_weights_that_lie_in_a_folder_are_not_shared(tmp_path, server, sampler):
    study = create(tmp_path / "s", None, sampler=sampler, storage=server.url)
    with pytest.raises(ValueError, match="start from weights that one driver keeps"):
        study.run(2, join=True)
    disconnect(study._ledger.storage)


# --- what is shared ---------------------------------------------------------------------------------------------------


@SERVER
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe"])
def test_two_drivers_double_and_lose_nothing(tmp_path, server, sampler):
    evaluator = Noted(Instant(SPACE), str(tmp_path / "evaluated"), 0.03)
    study = create(tmp_path / "s", evaluator, storage=server.url, sampler=sampler)
    shutil.copytree(tmp_path / "s", tmp_path / "copy")  # as on another machine
    drivers = [_started(tmp_path / name, server.url, evaluator, 200) for name in ("s", "copy")]
    for driver in drivers:
        driver.join()
        assert driver.exitcode == 0
    trials = study.trials()
    assert list(trials.trial) == [*range(200)] and (trials.state == "complete").all()
    assert trials.key.nunique() == 200, "no network was tried twice"
    lines = (tmp_path / "evaluated").read_text().split("\n")[:-1]
    assert len(lines) == 200, "none was evaluated twice"
    shares = [sum(line.startswith(f"{driver.pid} ") for line in lines) for driver in drivers]
    assert min(shares) > 40, f"both took part: {shares}"
    assert "seed:full" in set(trials.source[:1]) and list(trials.source).count("seed:full") == 1
    disconnect(study._ledger.storage)


@SERVER
@pytest.mark.slow
def test_what_a_killed_driver_ran_is_taken_over_though_the_server_stops_too(tmp_path, server):
    evaluator = Noted(Instant(SPACE), str(tmp_path / "evaluated"), 0.05)
    study = create(tmp_path / "s", evaluator, storage=server.url)
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    steady = _started(tmp_path / "s", server.url, evaluator, 80)
    for _ in range(4):
        victim = _started(tmp_path / "copy", server.url, evaluator, 80)
        time.sleep(2.0 + random.Random(0).random())
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
    server.stop()
    time.sleep(2.0)
    server.start()
    steady.join()
    assert steady.exitcode == 0
    trials = study.trials()
    assert list(trials.trial) == [*range(80)] and (trials.state == "complete").all()
    assert trials.key.nunique() == 80
    assert not study._ledger.owners
    disconnect(study._ledger.storage)


@SERVER
@pytest.mark.slow
def test_a_frozen_driver_that_comes_back_drops_what_was_taken_over(tmp_path, server):
    evaluator = Noted(Instant(SPACE), str(tmp_path / "evaluated"), 0.1)
    study = create(tmp_path / "s", evaluator, storage=server.url)
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    drivers = [_started(tmp_path / name, server.url, evaluator, 100) for name in ("s", "copy")]
    time.sleep(4.0)
    os.kill(drivers[1].pid, signal.SIGSTOP)
    time.sleep(8.0)  # longer than its lease
    os.kill(drivers[1].pid, signal.SIGCONT)
    for driver in drivers:
        driver.join()
        assert driver.exitcode == 0
    trials = study.trials()
    assert list(trials.trial) == [*range(100)] and (trials.state == "complete").all()
    assert trials.key.nunique() == 100
    disconnect(study._ledger.storage)
