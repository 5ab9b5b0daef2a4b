"""Ctrl-C once, twice, SIGTERM and SIGKILL: what runs ends or is redone, nobody is left, and the study goes on."""

import multiprocessing
import os
import signal
import threading
import time

import chaos
import pandas as pd
import pytest
from killing import study_in, table

from secateur.studies.runners.executor import Interrupts
from secateur.studies.settings.runner import Serial

TRIALS = 12


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def search(folder, seconds):
    """In a child of the tests, which costs no start-up."""
    chaos.hear_interrupts()
    study = chaos.study_in(folder / "study", "steady", seconds)
    try:
        study.run(TRIALS)
    except KeyboardInterrupt:
        os._exit(130)


def begun(tmp_path, seconds, trials=2):
    chaos.study_in(tmp_path / "study", "steady")
    process = multiprocessing.get_context("fork").Process(target=search, args=(tmp_path, seconds))
    process.start()
    wait_for(lambda: len(lines(tmp_path / "begun")) >= trials)
    return process


def goes_on(tmp_path):
    """The study, resumed, has the table of one that was never stopped."""
    straight = study_in(tmp_path / "straight")
    straight.run(TRIALS)
    study = chaos.study_in(tmp_path / "study", "steady")
    study.run(TRIALS)
    pd.testing.assert_frame_equal(table(study), table(straight))


def test_once_ends_what_runs(tmp_path):
    process = begun(tmp_path, 0.3)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    ended = lines(tmp_path / "ended")
    assert lines(tmp_path / "begun") == ended and 2 <= len(ended) < TRIALS
    trials = chaos.study_in(tmp_path / "study", "steady")._ledger.trials
    assert sum(trial.outcome is not None for trial in trials) == len(ended), "all that ended is kept"
    goes_on(tmp_path)
    assert lines(tmp_path / "begun") == lines(tmp_path / "ended") and len(lines(tmp_path / "ended")) == TRIALS


def test_twice_leaves_at_once(tmp_path):
    process = begun(tmp_path, 600.0, trials=1)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130 and not lines(tmp_path / "ended")
    goes_on(tmp_path)


def test_a_scheduler_that_ends_it(tmp_path):
    process = begun(tmp_path, 0.5)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 143
    assert not (tmp_path / "study" / "driver.json").exists(), "the lock was given back"
    goes_on(tmp_path)


def test_signals_are_put_back_and_the_callers_own_are_left():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    own = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGTERM, own)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before[1])


def test_elsewhere_than_in_the_main_thread_nothing_changes():
    before, seen = signal.getsignal(signal.SIGINT), []

    def run():
        with Interrupts() as interrupts:
            seen.append((interrupts.asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_an_alarm_of_the_callers_is_put_back(tmp_path):
    rung = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(time.monotonic()))
    try:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        study_in(tmp_path / "study").run(2, runner=Serial(timeout_s=30.0))
        wait_for(lambda: rung, 10)
        assert rung[0] - start >= 0.4
    finally:
        signal.signal(signal.SIGALRM, before)


# --- over processes ---------------------------------------------------------------------------------------------------

TWO = ["--runner", "processes", "--workers", 2, "--evaluator", "steady", "--trials", TRIALS]


def started(tmp_path, seconds):
    """A search over two processes, in which two trials have begun."""
    chaos.study_in(tmp_path / "study", "steady")
    process = chaos.start(tmp_path / "study", *TWO, "--seconds", seconds)
    wait_for(lambda: len(lines(tmp_path / "begun")) >= 2, 120)
    return process


@pytest.mark.slow
def test_once_ends_what_the_processes_do(tmp_path):
    with started(tmp_path, 0.5) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all in the foreground
        assert process.wait(60) == 130
    assert sorted(lines(tmp_path / "begun")) == sorted(lines(tmp_path / "ended"))
    assert chaos.gone_within(tmp_path / "study", 10)
    goes_on(tmp_path)


@pytest.mark.slow
def test_twice_ends_the_processes(tmp_path):
    with started(tmp_path, 600.0) as process:
        for _ in range(2):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.3)
        assert process.wait(30) == 130
    assert not lines(tmp_path / "ended")
    assert chaos.gone_within(tmp_path / "study", 10)
    goes_on(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_process_outlives_its_driver(tmp_path, number, code):
    with started(tmp_path, 600.0) as process:
        os.kill(process.pid, number)
        assert process.wait(30) == code
    assert chaos.gone_within(tmp_path / "study", 10), chaos.left(tmp_path / "study")
    goes_on(tmp_path)
