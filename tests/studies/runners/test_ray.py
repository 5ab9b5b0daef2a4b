"""Trials in actors of a Ray cluster: the same table, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import scripted
from chaos import Deadly
from killing import table
from landscapes import Instant, tiny_net, tiny_space
from scripted import create, job

from secateur.studies.runners.ray.actors import RayExecutor
from secateur.studies.runners.ray.cluster import Cluster, plan
from secateur.studies.settings.runner import Ray
from secateur.studies.trials.events import Begun, Happened, JobEnd, Lost, Unable, WorkerInfo
from secateur.testing import RunnerContract

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """A Ray of the user's own, on two cores; what runs here must leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or Ray would write a token into the home folder
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        before = signal.getsignal(signal.SIGTERM)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        assert ray.is_initialized()
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def until(actors: RayExecutor, slot: int, *kinds: type, within_s: float = 180.0):
    """What the slot said, up to the first message of such a kind."""
    found, late = [], time.monotonic() + within_s
    while time.monotonic() < late:
        for message in actors.wait(1.0):
            if message.slot == slot:
                found.append(message)
                if isinstance(message.said, kinds):
                    return found
    raise AssertionError(f"slot {slot} said only {found}")


def test_a_cluster_that_does_not_answer_is_refused_at_once():
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    for address, said in (("127.0.0.1:1", "nothing answers there"), ("ray://127.0.0.1:1", "nothing answers there")):
        with pytest.raises(ValueError, match=f"Ray cluster address='{address}': {said}"):
            Cluster(address, objects=2**27)
    with pytest.raises(ValueError, match="address='nonsense': Invalid address"):
        Cluster("nonsense", objects=2**27)
    assert dict(os.environ) == before and signal.getsignal(signal.SIGTERM) == handler


def test_the_table_is_that_of_a_serial_run(cluster, tmp_path):
    """Also where trials start from weights that another worker trained."""
    straight, other = (create(tmp_path / name, sampler="three-dimensions", evaluator=None) for name in "ab")
    straight.run(9)
    other.run(9, runner=Ray(workers=2))
    pd.testing.assert_frame_equal(table(straight), table(other))
    kept = [{path.name: path.read_bytes() for path in (one.path / "weights").iterdir()} for one in (straight, other)]
    assert kept[0].keys() == kept[1].keys() and kept[0]


@pytest.mark.slow
def test_actors_are_replaced_and_slots_stay(cluster):
    """An actor that is killed, idle or not, one that hangs, and one that leaves."""
    actors = RayExecutor(Ray(workers=1))
    try:
        actors.open(scripted.work(), print)
        actors.submit(0, job("answer"))
        said = until(actors, 0, JobEnd)
        assert [type(message.said) for message in said] == [Begun, Happened, JobEnd]
        assert said[1].said == Happened(event=scripted.EPOCH)
        first = actors.describe(0)
        assert first.pid == said[2].said.outcome.attributes["pid"] and first.gpus == ()
        actors.submit(0, job("raise"))
        assert until(actors, 0, JobEnd)[-1].said.transient
        assert actors.describe(0) == first

        actors.submit(0, job("die"))
        (*_, lost) = until(actors, 0, Lost)
        assert "its worker process has died" in lost.said.why
        actors.submit(0, job("hang"))
        until(actors, 0, Begun)
        actors.cancel(0)
        actors.submit(0, job("answer"))
        assert [type(message.said) for message in until(actors, 0, JobEnd)] == [Begun, Happened, JobEnd]

        os.kill(actors.describe(0).pid, signal.SIGKILL)
        assert until(actors, 0, Lost)
        assert actors.describe(0) == WorkerInfo()
    finally:
        actors.close()
        actors.close()
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gpus_per_trial": 0.5}, "workers=1 of CPU=1, GPU=0.5 ask for more .*: 1 node with CPU=2, GPU=0, room for 0"),
        ({"cpus_per_trial": 1000}, "CPU=1000"),
        ({"workers": 3}, "workers=3 of CPU=1 ask for more than the Ray cluster has: .* room for 2"),
        ({"resources": {"tpu": 1}}, "tpu=1 .* 1 node with CPU=2, GPU=0, tpu=0, room for 0"),
    ],
)
def test_what_the_cluster_never_has_is_refused_at_once(cluster, asked, said):
    actors, start = RayExecutor(Ray(**asked)), time.monotonic()
    with pytest.raises(ValueError, match=said):
        actors.open(scripted.work(), print)
    assert time.monotonic() - start < 5
    actors.close()
    assert ray.is_initialized()


@pytest.mark.slow
def test_what_workers_cannot_import_is_said_at_once(cluster, tmp_path, monkeypatch):
    module = types.ModuleType("nowhere")
    exec("class Hidden:\n    at = lambda self, folder: self", module.__dict__)
    monkeypatch.setitem(sys.modules, "nowhere", module)
    actors = RayExecutor(Ray(workers=1))
    try:
        actors.open(replace(scripted.work(), evaluation=module.Hidden()), print)
        (said,) = until(actors, 0, Unable)
        assert said.said.why == "ModuleNotFoundError: No module named 'nowhere'"
    finally:
        actors.close()


def test_room_is_counted_by_node():
    node = {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}
    assert plan(Ray(), threads=2, cuda=False, nodes=[node, node]) == ({"CPU": 2.0}, 8)
    assert plan(Ray(), threads=8, cuda=True, nodes=[node, node]) == ({"CPU": 1.0, "GPU": 1.0}, 4)
    both = Ray(gpus_per_trial=2)
    assert plan(both, threads=1, cuda=True, nodes=[node, node, {"CPU": 8.0}])[1] == 2
    third = Ray(gpus_per_trial=0.4)  # two fit on a GPU, and no share spans two
    assert plan(third, threads=1, cuda=True, nodes=[node])[1] == 4
    with pytest.raises(ValueError, match="GPU=4 ask for more .* 2 nodes with CPU=8, GPU=2, room for 0"):
        plan(Ray(gpus_per_trial=4), threads=1, cuda=True, nodes=[node, node])
    with pytest.raises(ValueError, match="room for 4"):
        plan(Ray(workers=5), threads=1, cuda=True, nodes=[node, node])
    with pytest.raises(ValueError, match="gpus_per_trial=0 on CUDA"):
        plan(Ray(gpus_per_trial=0), threads=1, cuda=True, nodes=[node])
    # Others use the cluster too: as many as there is room for now. A number that was asked for waits its turn.
    busy = {"CPU": 3.0, "GPU": 4.0}
    assert plan(Ray(), threads=1, cuda=False, nodes=[node, node], free=busy)[1] == 3
    assert plan(Ray(workers=9), threads=1, cuda=False, nodes=[node, node], free=busy)[1] == 9
    # On a cluster of its own a number of workers shares the cores, as processes do.
    alone = {"nodes": [{"CPU": 2.0}], "threads": 2, "cuda": False, "own": True}
    assert plan(Ray(workers=4), **alone) == ({"CPU": 0.5}, 4)
    with pytest.raises(ValueError, match="room for 2"):
        plan(Ray(workers=4, cpus_per_trial=1), **alone)


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_attempt_of_one_trial(cluster, tmp_path):
    space = tiny_space(tiny_net())
    study = create(tmp_path / "b", evaluator=Deadly(Instant(space), tmp_path))
    study.run(16, runner=Ray(workers=2, timeout_s=3.0))
    trials = study.trials()
    assert set(trials.state) == {"complete", "failed"} and len(trials) == 16
    raised = trials[trials.reason == "ValueError: a bad network"]
    late = trials[trials.reason == "timed out: not finished within 3 s"]
    assert len(raised) and len(late) and len(raised) + len(late) == (trials.state == "failed").sum()
    again = trials[trials.attempts > 1]
    assert len(again) and (again.state == "complete").all()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_interrupts_on_a_cluster_of_its_own(tmp_path, times):
    """The first lets running trials end, the second does not; either way nothing of ours is left."""

    def marks(name: str) -> set[str]:
        return {path.name.removeprefix(name) for path in tmp_path.glob(f"{name}-*")}

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "TMPDIR": tempfile.gettempdir()}
    command = [sys.executable, scripted.__file__, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        workers: list[int] = []
        while len(workers) < 2:
            assert process.stdout is not None and "trials:" in process.stdout.readline()
            slots = json.loads((tmp_path / "study" / "slots.json").read_text())["slots"]
            workers = [slot["pid"] for slot in slots if "pid" in slot]
        late = time.monotonic() + 30
        while marks("began") == marks("ended") and time.monotonic() < late:
            time.sleep(0.01)
        before = marks("ended")
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all in the foreground
            time.sleep(0.2)
        said, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert "raylet" not in said + errors
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout
    study = scripted.Study.open(
        tmp_path / "study",
        model=tiny_net(),
        task=scripted.tiny_task(),
        evaluator=scripted.Sleeper(Instant(tiny_space(tiny_net())), 0.0),
    )
    if times == 1:
        assert marks("began") == marks("ended") and len(marks("ended")) > len(before)
    assert len(marks("ended")) <= len(study.trials()) < 40
    straight = create(tmp_path / "straight", evaluator=scripted.Sleeper(Instant(tiny_space(tiny_net())), 0.0))
    straight.run(12)
    study.run(12)
    pd.testing.assert_frame_equal(table(straight), table(study))


@pytest.mark.slow
class TestContract(RunnerContract):
    @pytest.fixture(autouse=True)
    def on(self, cluster):
        """Ray is there."""

    def runner(self):
        return Ray(workers=2)
