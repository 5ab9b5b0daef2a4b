"""From a study to networks on disk: picks, the last training, what is written."""

import json

import pandas as pd
import pytest
import torch
from landscapes import tiny_net, tiny_space, tiny_task, tiny_training
from torch import nn

from secateur import Budget, Classification, Search, Space, Study, load
from secateur.evaluators import measure_error
from secateur.studies.exports.exporter import finalists, rounds
from secateur.studies.trials.events import Epoch, Exported, Trained

MODEL = tiny_net()
SPACE = tiny_space(MODEL)
TASK = tiny_task()
FRONT = ("error", "macs")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "study"
    study = Study.create(
        path,
        model=MODEL,
        task=TASK,
        space=SPACE,
        budget=Budget(macs=0.5),
        training=tiny_training(),
        search=Search(threads=1),
    )
    study.run(8)
    return study


def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_what_is_over_the_budget_says_so(study, tmp_path, caplog):
    trials, kept = study.trials(), study.budget
    dearest = trials.loc[trials.macs.idxmax()]
    study.budget = Budget(macs=int(dearest.macs) - 1)
    try:
        (folder,) = study.export(tmp_path / "out", int(dearest.trial), finetune_epochs=0, formats=("safetensors",))
    finally:
        study.budget = kept
    assert f"trial {dearest.trial}, exported as asked, is over the study's budget: macs" in caplog.text
    assert config(folder)["over_budget"].startswith("macs ")
    assert "over the budget of its study: macs" in (folder / "README.md").read_text()
    (inside,) = study.export(tmp_path / "in", "best", finetune_epochs=0, formats=("safetensors",))
    assert "over_budget" not in config(inside)


def test_best_is_trained_written_and_loads_back(study, tmp_path):
    events = []
    (folder,) = study.export(tmp_path / "out", finetune_epochs=1, formats=("pt2",), progress=events.append)
    best = study.status().best
    found = config(folder)
    assert folder.name == f"trial-{best.number:04d}-{best.candidate.key}"
    assert found["costs"]["macs"] == best.costs["macs"] and found["errors"]["search_error"] == best.error
    assert [type(event) for event in events] == [Epoch, Trained, Exported]

    net = load(folder, model=tiny_net(seed=5))
    side = tuple(found["resolution"])
    assert measure_error(net, TASK, split="test", resolution=side).compute() == found["errors"]["test_error"]
    inputs = torch.rand(3, 1, *side)
    with torch.no_grad():
        torch.testing.assert_close(load(folder)(inputs), net(inputs))
    assert sum(p.numel() for p in net.parameters()) == found["costs"]["params"]

    front = pd.read_csv(tmp_path / "out" / "front.csv")
    assert front.trial.tolist() == study.front().trial.tolist()
    assert front.set_index("trial").final_test_error.notna().sum() == 1


class Looped(nn.Module):
    """A network whose forward takes its examples one by one: no batch of it is free."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return torch.cat([self.net(one[None]) for one in x])


def test_an_export_is_tried_before_the_search(tmp_path, caplog):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    task = Classification(train=(images, labels), validation=(images, labels), test=(images, labels), batch=4)
    for number, (model, said) in enumerate(((net, ""), (Looped(net), "with a batch of 1 only to pt2 and onnx"))):
        space = Space.trace(model, images[:1], divisor=1)
        Study.create(tmp_path / str(number), model=model, task=task, space=space, budget=Budget(macs=0.9))
        assert said in caplog.text and bool(said) == ("pt2" in caplog.text)


@pytest.mark.parametrize(
    ("pick", "numbers"),
    [
        ("all", lambda study: study.front().trial.tolist()),
        (0, lambda study: [0]),
        (Budget(macs=0.3), lambda study: [best_within(study, 0.3)]),
        ("knee", lambda study: [knee(study)]),
        ({"error": 0.99, "macs": 0.4}, lambda study: [cheapest_within(study, 0.4)]),
    ],
)
def test_picks(study, tmp_path, pick, numbers):
    folders = study.export(tmp_path / "out", pick=pick, finetune_epochs=0, formats=())
    assert [config(folder)["trial"] for folder in folders] == numbers(study)
    for proof in (config(folder)["proof"] for folder in folders):
        assert proof["difference"] < 1e-4 and "reach an output" in proof["seen"] or "no channels" in proof["seen"]


def best_within(study, share):
    trials = study.trials()
    fit = trials[trials.macs <= share * trials.macs[0]]
    return int(fit.sort_values(["error", "macs", "trial"]).trial.iloc[0])


def cheapest_within(study, share):
    trials = study.trials()
    fit = trials[(trials.macs <= share * trials.macs[0]) & (trials.error <= 0.99)]
    return int(fit.sort_values(["macs", "trial"]).trial.iloc[0])


def knee(study):
    front = study.front()
    spans = [(front[name] - front[name].min()) / max(front[name].max() - front[name].min(), 1e-9) for name in FRONT]
    return int(front.trial[sum(spans).idxmin()])


@pytest.mark.parametrize(
    ("pick", "said"),
    [
        ("worst", "pick='worst'"),
        ({"error": 1e-9}, "no trial has an error of at most 1e-09: the least within the budget is 0"),
        ({"error": "3%"}, "expected an error above 0"),
        ({"macs": 0.3}, "expected an error above 0"),
        (99, "no such trial"),
        (-1, "no such trial"),
        (Budget(macs=10.0), "no trial is within"),
    ],
)
def test_picks_that_nothing_fits(study, tmp_path, pick, said):
    with pytest.raises(ValueError, match=said):
        study.export(tmp_path / "out", pick=pick)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_refused_before_any_training(study, tmp_path):
    events = []
    with pytest.raises(FileExistsError):
        study.export(tmp_path, finetune_epochs=7, progress=events.append)
    assert not events and not list((study.path / "exports").glob("*-epochs-7"))


def test_wrong_arguments_are_refused_before_any_training(study, tmp_path):
    with pytest.raises(ValueError, match="finetune_epochs"):
        study.export(tmp_path / "out", finetune_epochs=-1)
    with pytest.raises(ValueError, match="formats"):
        study.export(tmp_path / "out", formats=("caffe",))


def test_training_goes_on_after_a_kill_and_ends_alike(study, tmp_path):
    number = int(study.front().trial.iloc[-1])
    straight = study.export(tmp_path / "straight", pick=number, finetune_epochs=4, formats=())[0]
    for kept in (study.path / "exports").glob("*-epochs-4"):
        for file in kept.iterdir():
            file.unlink()

    def die(event):
        if isinstance(event, Epoch) and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.export(tmp_path / "resumed", pick=number, finetune_epochs=4, progress=die, formats=())
    assert not (tmp_path / "resumed").exists()
    events = []
    resumed = study.export(tmp_path / "resumed", pick=number, finetune_epochs=4, progress=events.append, formats=())[0]
    assert [event.done for event in events if isinstance(event, Epoch)] == [3, 4]
    assert (resumed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert config(resumed)["errors"] == config(straight)["errors"]


def test_a_network_is_trained_and_tested_once(study, tmp_path):
    events = []
    study.export(tmp_path / "a", finetune_epochs=2, formats=())
    study.export(tmp_path / "b", finetune_epochs=2, formats=(), progress=events.append)
    assert [type(event) for event in events] == [Trained, Exported]


def test_finalists_are_tried_and_the_best_of_them_exported(study, tmp_path):
    events = []
    (folder,) = study.export(tmp_path / "out", finetune_epochs=1, formats=("pt2",), progress=events.append, finalists=4)
    tries = [event for event in events if isinstance(event, Trained) and event.network.networks == 4]
    numbers = [event.network.trial for event in tries]
    assert len(set(numbers)) == 4 and study.trials().set_index("trial").within[numbers].all()
    assert all("test_error" not in event.figures for event in tries)  # nothing is chosen by the test split
    best = min(tries, key=lambda event: event.figures["validation_error"])
    assert config(folder)["trial"] == best.network.trial and config(folder)["errors"]["epochs"] == 1

    again = []
    study.export(tmp_path / "again", finetune_epochs=1, formats=("pt2",), progress=again.append, finalists=4)
    assert not [event for event in again if isinstance(event, Epoch)]


def test_finalists_come_from_every_resolution(study):
    trials = [trial for trial in study._ledger.trials if trial.scored]
    sides = {SPACE.side(trial.candidate) for trial in trials}
    found = finalists(trials, SPACE, ("error", "macs"), len(sides))
    assert len(sides) > 1 and {SPACE.side(trial.candidate) for trial in found} == sides
    for trial in found:
        rivals = [one.measures["error"] for one in trials if SPACE.side(one.candidate) == SPACE.side(trial.candidate)]
        assert trial.measures["error"] == min(rivals)
    assert len(finalists(trials, SPACE, ("error",), 1000)) == len(trials)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((4, 1, 8), [(4, 1), (2, 4)]),
        ((8, 1, 16), [(8, 1), (4, 4), (2, 16)]),
        ((8, 1, 15), [(8, 1), (4, 4)]),
        ((5, 2, 100), [(5, 2), (3, 8), (2, 32)]),
        ((3, 4, 1), [(3, 4)]),  # one round there is, however short the last training
        ((2, 0, 4), [(2, 0)]),
        ((1, 1, 8), []),
    ],
)
def test_fewer_finalists_are_trained_for_longer(given, expected):
    assert rounds(*given) == expected


def test_the_better_half_of_the_finalists_is_trained_anew_four_times_as_long(study, tmp_path):
    events = []
    (folder,) = study.export(tmp_path / "out", finetune_epochs=8, formats=("pt2",), progress=events.append, finalists=4)
    ended = [event for event in events if isinstance(event, Trained)]
    done = [(one.network.networks, one.network.trial, one.figures.get("validation_error")) for one in ended]
    assert [networks for networks, _, _ in done] == [4, 4, 4, 4, 2, 2, 1]
    short, longer = sorted(done[:4], key=lambda one: one[2]), done[4:6]
    assert {trial for _, trial, _ in longer} == {trial for _, trial, _ in short[:2]}
    assert config(folder)["trial"] == done[6][1] == min(longer, key=lambda one: one[2])[1]
    epochs = [event for event in events if isinstance(event, Epoch) and event.of.networks == 2]
    assert len(epochs) == 8


@pytest.mark.parametrize(("pick", "count"), [("best", 0), ("best", True), ("best", 1.5), (0, 2), ("all", 2)])
def test_wrong_finalists_are_refused_before_any_training(study, tmp_path, pick, count):
    events = []
    with pytest.raises(ValueError, match="finalists="):
        study.export(tmp_path / "out", pick=pick, progress=events.append, finalists=count)
    with pytest.raises(ValueError, match="finetune_epochs="):
        study.export(tmp_path / "out", finetune_epochs=2.5, progress=events.append, finalists=2)
    assert not events and not (tmp_path / "out").exists()


def test_the_search_never_reads_the_test_split(tmp_path):
    class Guarded:
        """The toy task, which remembers the splits that were read."""

        def __init__(self):
            self.read = []

        def __getattr__(self, name):
            return getattr(TASK, name)

        def loader(self, split, resolution, seed):
            self.read.append(split)
            return TASK.loader(split, resolution, seed)

    task = Guarded()
    study = Study.create(
        tmp_path / "s",
        model=MODEL,
        task=task,
        space=SPACE,
        budget=Budget(macs=0.5),
        training=tiny_training(),
        search=Search(threads=1),
    )
    study.run(4)
    assert set(task.read) == {"train", "validation"}
    study.export(tmp_path / "out", finetune_epochs=0, formats=())
    assert task.read.count("test") == 1
