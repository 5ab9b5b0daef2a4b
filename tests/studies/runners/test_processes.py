"""Trials in processes of their own: the same table, whatever dies."""

import multiprocessing
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
from chaos import Deadly, Odd
from killing import table
from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.studies.disk.scratch import Scratch, sweep
from secateur.studies.runners.process_worker import pickled
from secateur.studies.runners.processes import ProcessExecutor, _Process, layout
from secateur.studies.settings.runner import Processes
from secateur.studies.trials.events import Begun, Happened, JobEnd, Lost, Ready, WorkerInfo


def create(path, **changes):
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given = {"sampler": "tpe", "threads": 1, "training": tiny_training(), "evaluator": Instant(space)} | changes
    return Study.create(path, model=model, task=task, space=space, budget=Budget(macs=0.5), **searching(given))


def test_the_table_is_that_of_a_serial_run(tmp_path):
    straight, other = create(tmp_path / "a", evaluator=None), create(tmp_path / "b", evaluator=None)
    straight.run(10)
    other.run(10, runner=Processes(workers=2))
    pd.testing.assert_frame_equal(table(straight), table(other))


def test_parents_and_rounds_travel(tmp_path):
    """Weights that trials start from are made by one worker and read by another."""
    for sampler in ("three-dimensions", "joint"):
        straight, other = (create(tmp_path / f"{sampler}-{i}", sampler=sampler, evaluator=None) for i in range(2))
        straight.run(9)
        other.run(9, runner=Processes(workers=2))
        pd.testing.assert_frame_equal(table(straight), table(other))
        assert {path.name for path in (straight.path / "weights").iterdir()} == {
            path.name for path in (other.path / "weights").iterdir()
        }


def test_a_worker_that_dies_costs_one_attempt_of_one_trial(tmp_path):
    study = create(tmp_path / "a", evaluator=Deadly(Instant(tiny_space(tiny_net())), tmp_path))
    study.run(16, runner=Processes(workers=2, timeout_s=1.5))
    trials = study.trials()
    assert set(trials.state) == {"complete", "failed"} and len(trials) == 16
    raised = trials[trials.reason == "ValueError: a bad network"]
    late = trials[trials.reason == "timed out: not finished within 1.5 s"]
    assert len(raised) and len(late) and len(raised) + len(late) == (trials.state == "failed").sum()
    again = trials[trials.attempts > 1]
    assert len(again) and (again.state == "complete").all()


def test_what_workers_cannot_import_is_said_at_once(tmp_path, monkeypatch):
    here = ModuleType("only_here")
    exec("from landscapes import Instant\nclass Hidden(Instant): pass", here.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", here)
    study = create(tmp_path / "a", evaluator=here.Hidden(tiny_space(tiny_net())))
    with pytest.raises(RuntimeError, match="workers can't do these trials: ModuleNotFoundError"):
        study.run(4, runner=Processes(workers=1))


def test_slots_and_gpus():
    gpus = ["3", "5"]
    assert layout(Processes(), threads=2, cpus=8, gpus=[], cuda=False) == (4, [])
    assert layout(Processes(), threads=2, cpus=8, gpus=gpus, cuda=True) == (2, [["3"], ["5"]])
    half = Processes(gpus_per_trial=0.5, workers=3)
    assert layout(half, threads=1, cpus=8, gpus=gpus, cuda=True) == (3, [["3"], ["3"], ["5"]])
    both = Processes(gpus_per_trial=2)
    assert layout(both, threads=1, cpus=8, gpus=gpus, cuda=True) == (1, [["3", "5"]])
    with pytest.raises(ValueError, match="ask for 3 GPUs, and this machine has 2"):
        layout(Processes(workers=3), threads=1, cpus=8, gpus=gpus, cuda=True)
    with pytest.raises(ValueError, match="this machine has 0"):
        layout(Processes(gpus_per_trial=0.5), threads=1, cpus=8, gpus=[], cuda=True)


# --- what a process leaves behind -------------------------------------------------------------------------------------


def opened():
    return sorted(os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name))


def _is_open(name):
    return os.path.lexists(f"/proc/self/fd/{name}")


def test_a_run_leaves_nothing_open_and_nobody_behind(tmp_path):
    study = create(tmp_path / "a")
    study.run(4, runner=Processes(workers=2))  # the server of the workers stays for the next run
    before, threads = len(opened()), threading.active_count()
    executor = ProcessExecutor(Processes(workers=2))
    study.run(8, runner=executor)
    assert len(opened()) == before and threading.active_count() == threads
    assert not multiprocessing.active_children()
    executor.close()  # twice does no harm


def test_what_a_worker_has_started_ends_with_it(tmp_path):
    """Data loaders have processes of their own, which hold the worker's sockets open."""
    study = create(tmp_path / "a", evaluator=Odd(Instant(tiny_space(tiny_net())), tmp_path, "parent"))
    study.run(1, runner=Processes(workers=1, timeout_s=1.0))
    assert list(study.trials().reason) == ["timed out: not finished within 1 s"]
    children = [int(path.name.removeprefix("child-")) for path in tmp_path.glob("child-*")]
    assert len(children) == 1
    end = time.monotonic() + 10
    while _runs(children[0]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(children[0])


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_stands_still_keeps_nobody(tmp_path):
    """Stopped in the middle of a trial: its time runs out, and the driver is not kept by it."""
    study = create(tmp_path / "a", evaluator=Odd(Instant(tiny_space(tiny_net())), tmp_path, "still"))
    study.run(2, runner=Processes(workers=1, timeout_s=1.5))
    assert list(study.trials().state) == ["failed", "complete"]


def test_folders_of_killed_processes_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os; from secateur.studies.disk.scratch import Scratch as S; print(S().path, flush=True); os._exit(9)"
    killed = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir() and left.parent == tmp_path
    mine = Scratch()
    assert not left.exists() and mine.path.is_dir()
    with mine.used():
        assert Path(tempfile.mkdtemp()).parent == mine.path
    sweep(tmp_path)
    assert mine.path.is_dir(), "its process lives"
    mine.remove()
    assert not list(tmp_path.iterdir())


# --- pipes ------------------------------------------------------------------------------------------------------------


class Wired:
    """A worker without a process: its ends of the pipes, and what the driver has heard."""

    def __init__(self):
        self.jobs, jobs = multiprocessing.Pipe(duplex=False)
        reports, self.reports = multiprocessing.Pipe(duplex=False)
        self.alive, self.death = multiprocessing.Pipe(duplex=False)
        self.heard = queue.SimpleQueue()
        self.one = _Process(
            SimpleNamespace(sentinel=self.alive.fileno()), jobs, reports, lambda one, said: self.heard.put(said)
        )

    def end(self):
        self.death.close()
        self.one.post(None)
        for thread in self.one._threads:
            thread.join(10)
            assert not thread.is_alive()


def test_large_messages_in_both_directions_at_once():
    """Either end would wait for the other one to read, if one thread did both."""
    worker, large = Wired(), os.urandom(20_000_000)
    worker.one.post(large)
    worker.one.post(b"more")
    worker.reports.send_bytes(pickled(Happened(event=large)))  # before it reads anything
    assert worker.jobs.recv_bytes() == large and worker.jobs.recv_bytes() == b"more"
    worker.reports.send_bytes(pickled(Ready(worker=WorkerInfo())))
    worker.reports.send_bytes(pickled(JobEnd()))
    worker.reports.close()
    assert [worker.heard.get(timeout=10) for _ in range(3)] == [Happened(event=large), JobEnd(), Lost("")]
    assert worker.one.ready
    worker.jobs.close()
    worker.one.post(b"this is not read")
    worker.end()


def test_part_of_a_message_is_no_message():
    worker = Wired()
    whole = pickled(JobEnd())
    worker.reports.send_bytes(whole)
    os.write(worker.reports.fileno(), len(whole).to_bytes(4, "big") + whole[:5])
    worker.reports.close()
    assert [worker.heard.get(timeout=10) for _ in range(2)] == [JobEnd(), Lost("")]
    worker.end()


def test_a_death_is_noticed_though_something_holds_the_pipe_open():
    worker = Wired()
    worker.reports.send_bytes(pickled(Begun()))
    assert worker.heard.get(timeout=10) == Begun()
    worker.death.close()
    assert worker.heard.get(timeout=10) == Lost("")
    worker.end()


def test_what_cannot_be_read_is_a_loss_that_says_so():
    worker = Wired()
    worker.reports.send_bytes(b"no pickle")
    assert "can't be read (UnpicklingError" in worker.heard.get(timeout=10).why
    worker.end()
