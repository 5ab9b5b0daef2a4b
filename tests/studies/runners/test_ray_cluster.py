"""A search on several nodes: shares of GPUs, a node that goes and another that comes. Fake GPUs, real Ray."""

import signal
import time

import pandas as pd
import pytest
import scripted
from killing import table
from landscapes import Instant, tiny_net, tiny_space
from scripted import Sleeper, create

from secateur.studies.runners.ray.actors import RayExecutor
from secateur.studies.settings.runner import Ray
from secateur.studies.trials.events import JobEnd

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(monkeypatch):
    """A head without GPUs and two nodes with one each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or Ray would write a token into the home folder
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield cluster, [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    finally:
        ray.shutdown()
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)


def test_shares_of_gpus(nodes):
    cluster, _ = nodes
    actors = RayExecutor(Ray(address=cluster.address, gpus_per_trial=0.5, cpus_per_trial=0.5))
    try:
        actors.open(scripted.work(), print)
        assert actors.slots == 4  # two on each GPU
        seen: dict[int, dict] = {}
        late = time.monotonic() + 120
        while len(seen) < 4 and time.monotonic() < late:
            actors.wait(1.0)
            seen = {slot: facts for slot in range(4) if (facts := actors.describe(slot)).pid is not None}
        assert len({facts.pid for facts in seen.values()}) == 4
        assert all(facts.gpus == ("0",) for facts in seen.values())  # each node has one
        for slot in range(4):
            actors.submit(slot, scripted.job("answer", slot))
        done: dict[int, dict] = {}
        while len(done) < 4 and time.monotonic() < late:
            for message in actors.wait(1.0):
                if isinstance(message.said, JobEnd):
                    done[message.slot] = message.said.outcome.attributes
        assert {slot: found["pid"] for slot, found in done.items()} == {slot: seen[slot].pid for slot in range(4)}
        assert all(found["gpus"] == "0" for found in done.values())
    finally:
        actors.close()
    assert not ray.is_initialized()


def test_more_gpus_than_any_node_has_are_refused(nodes, tmp_path):
    cluster, _ = nodes
    study = create(tmp_path / "a")
    said = "GPU=2 ask for more .*: 2 nodes with CPU=1, GPU=1; 1 node with CPU=1, GPU=0, room for 0"
    with pytest.raises(ValueError, match=said):
        study.run(4, runner=Ray(address=cluster.address, gpus_per_trial=2))
    assert not ray.is_initialized() and not (study.trials().state != "running").any()


def test_a_node_goes_and_another_comes_in_mid_search(nodes, tmp_path):
    """The table is that of a quiet serial search, and the new node's worker has done some of it."""
    cluster, (first, _) = nodes
    space = tiny_space(tiny_net())
    straight, other = (
        create(tmp_path / name, evaluator=Sleeper(Instant(space), pause)) for name, pause in (("a", 0.0), ("b", 0.3))
    )
    straight.run(120)
    actors = RayExecutor(Ray(address=cluster.address, gpus_per_trial=1))
    removed = added = float("inf")
    both, alone, again = set(), set(), set()

    def look(event):
        nonlocal removed, added
        workers = frozenset(facts.pid for slot in range(2) if (facts := actors.describe(slot)).pid is not None)
        if removed == float("inf"):
            both.add(workers)
            if len(workers) == 2 and event.done >= 8:
                cluster.remove_node(first, allow_graceful=False)
                removed = time.monotonic()
        elif added == float("inf"):
            alone.add(workers)
            if time.monotonic() - removed > 10:
                cluster.add_node(num_cpus=1, num_gpus=1)
                added = time.monotonic()
        else:
            again.add(workers)

    other.run(120, look, runner=actors)
    pd.testing.assert_frame_equal(table(straight), table(other))
    pair = max(both, key=len)
    left = {pid for workers in alone for pid in workers if len(workers) == 1}
    assert len(pair) == 2 and len(left) == 1 and left < pair  # it went on with the one left
    assert any(len(workers) == 2 and left < workers for workers in again)
    attempts = other.trials().attempts
    assert (attempts > 1).sum() <= 1 and attempts.max() <= 2
