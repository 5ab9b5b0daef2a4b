import pickle
from types import SimpleNamespace

import pytest
from handmade import trial

from secateur.studies.trials.events import (
    Begun,
    Calibrated,
    Doing,
    Epoch,
    Exported,
    Happened,
    JobEnd,
    Lost,
    Message,
    Network,
    Proposed,
    Ready,
    Rung,
    SlotChanged,
    Trained,
    TrialEnded,
    Unable,
    Watch,
    WorkerInfo,
)
from secateur.studies.trials.trial import Failed

NETWORK = Network(place=2, networks=3, trial=7, key="aaa32b51")
FIGURES = {"validation_error": 0.02, "validation_error_std": 0.001, "validation_size": 100, "epochs": 4}
EPOCH = Epoch(of=NETWORK, done=1, total=4, loss=0.5, eta=30.0)
EVENTS = {
    EPOCH: "network 2/3 (trial 7): epoch 1/4, loss 0.5000; 30 s left",
    Epoch(of="base network", done=4, total=4, loss=0.25, eta=0.0): "base network: epoch 4/4, loss 0.2500",
    Rung(of="trial 7", rung="short", error=0.4): "trial 7: error 40.00% at short",
    Calibrated(done=8, total=48): "latency: 8/48 networks measured",
    Begun(): "has begun",
    Lost("its node has died"): "lost its worker: its node has died",
    Unable("no module"): "can't do this: no module",
    Ready(worker=WorkerInfo(pid=5, host="node")): "is ready: process 5 on node",
    SlotChanged(slot=1, change="open"): "slot 1 open",
    SlotChanged(slot=1, change="lost", doing=Doing(trial=3, attempt=2, epoch=EPOCH)): (
        "slot 1 lost: trial 3, attempt 2, epoch 1/4"
    ),
}
UNHASHABLE = [
    (
        Proposed(method="resrep", seconds=130.0, costs={"macs": 4_200_000, "params": 12}),
        "resrep proposes a network of 4.2 M MACs, 12 parameters, in 2 min",
    ),
    (
        Trained(network=NETWORK, figures=FIGURES),
        "network 2/3 (trial 7): trained, validation error 2.00% +- 0.10 (100 examples)",
    ),
    (
        Exported(network=NETWORK, folder="out", verified={"tolerance": 1e-4, "pt2": {"1": 0.0, "3": 1e-7}}),
        "out: pt2; largest difference 1.0e-07 of the largest output",
    ),
    (
        TrialEnded(last=trial(2, None, 1000.0), best=trial(1, 0.1, 1e6), done=3, total=9),
        "3/9 trials: bang, 1 k MACs; best 10.00% (trial 1)",
    ),
    (
        TrialEnded(last=trial(2, 0.2, 1000.0, stopped=True), best=None, done=3, total=9),
        "3/9 trials: stopped, 1 k MACs",
    ),
    (Message(slot=0, said=Happened(event=EPOCH, files={"weights/a": b"1"})), f"slot 0 {EPOCH}"),
    (Message(slot=0, said=JobEnd()), "slot 0 has ended"),
    (Message(slot=0, said=JobEnd(outcome=Failed(reason="bang"))), "slot 0 failed: bang"),
]


@pytest.mark.parametrize(("event", "line"), [*EVENTS.items(), *UNHASHABLE])
def test_an_event_is_a_line_and_travels(event, line):
    assert str(event) == line
    assert pickle.loads(pickle.dumps(event)) == event


def test_a_watch_tells_of_every_epoch_also_of_a_training_that_goes_on():
    heard = []
    watch = Watch(heard.append, "base network")
    for epoch in (3, 4, 1, 2):  # two epochs after a kill, and another training
        watch.after_epoch(SimpleNamespace(epoch=epoch, epochs=4, losses=[1.0, 1 / epoch]))
    assert [(one.done, one.total, one.loss) for one in heard] == [(n, 4, 1 / n) for n in (3, 4, 1, 2)]
    assert heard[1].eta == 0 and all(one.eta > 0 for one in (heard[0], *heard[2:]))
    Watch(None, "no one listens").after_epoch(SimpleNamespace(epoch=1, epochs=1, losses=[0.0]))


def test_what_cannot_be_sent_is_a_failure_that_keeps_its_files():
    end = JobEnd(files={"weights/a": b"1"}).unsendable(TypeError("no"))
    assert isinstance(end.outcome, Failed) and "can't be sent (TypeError: no)" in end.outcome.reason
    assert end.files == {"weights/a": b"1"}
