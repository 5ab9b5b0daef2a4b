"""The network that a study is given is measured first: what stops a study, with which reason, and where it is shown."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.evaluators import measure_error, train
from secateur.studies.commands import output
from secateur.studies.drivers.given import Judgement, floor
from secateur.studies.views.view import View

IMAGES = 400


def pictures(count, seed):
    """Noise with a bar whose colour and place say the class, of six; uint8."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 6
    images = torch.randint(0, 60, (count, 3, 8, 8), generator=g, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[label // 2, :, 4 * (label % 2) : 4 * (label % 2) + 4] += 90
    return images, labels


MEAN, STD = (0.3, 0.2, 0.25), (0.05, 0.05, 0.06)
SPLITS = {"train": pictures(IMAGES, 0), "validation": pictures(IMAGES, 1)}


def task(**settings):
    return sc.Classification(**(SPLITS | {"batch": 40, "mean": MEAN, "std": STD} | settings))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 6))
    train(net, task(), sc.Training(lr=0.02, base_epochs=2), epochs=2)
    assert measure_error(net, task()).compute() < 0.05
    return net.eval()


def create(path, model, task, **further):
    space = sc.Space.trace(model, torch.rand(1, 3, 8, 8), divisor=4, prove=False)
    return sc.Study.create(path, model=model, task=task, space=space, budget=sc.Budget(macs=0.6), **further)


def reversed_channels(model):
    other = copy.deepcopy(model)
    other[0].weight.data = other[0].weight.data.flip(1)
    return other


def untouched(model):
    for norm in (one for one in model.modules() if isinstance(one, nn.BatchNorm2d)):
        norm.reset_running_stats()
    return model


WRONG = {
    "other inputs": (lambda m: m, {"mean": None, "std": None}, r"with mean=\[.*\] and std=\[.*\] its error is"),
    "BGR": (reversed_channels, {"mean": (0.25, 0.25, 0.25), "std": (0.05, 0.05, 0.05)}, r"\(BGR\) its error is"),
    "labels": (
        lambda m: m,
        {"validation": (SPLITS["validation"][0], (SPLITS["validation"][1] + 1) % 6)},
        r"knows the labels in another order \(0 as 5, 1 as 0, 2 as 1, \.\.\.\): in that order its error is",
    ),
    "no weights": (
        lambda m: untouched(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 6))),
        {},
        "its batch norms have never seen a batch, so its weights were not loaded",
    ),
    "something else": (
        lambda m: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 6)),
        {},
        "likely its weights were not loaded, or it sees other inputs",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_network_that_is_not_what_it_should_be_stops_a_study_with_the_likely_reason(tmp_path, model, name):
    spoil, settings, said = WRONG[name]
    spoiled, shown = spoil(model), task(**settings)
    with pytest.raises(ValueError, match=rf"full network: validation error .* on 400 examples, and 0.0.*; .*{said}"):
        create(tmp_path / "study", spoiled, shown, expect_error=0.0)
    if measure_error(spoiled, shown).compute() > 0.8:
        with pytest.raises(ValueError, match=rf"on 400 examples, little better than a guess; .*{said}"):
            create(tmp_path / "study", spoiled, shown)
    assert not list(tmp_path.iterdir())


def test_who_searches_an_untrained_network_says_so(tmp_path, caplog):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 6))
    study = create(tmp_path / "study", net, task(), expect_error="untrained")
    assert "little better than a guess" in caplog.text
    assert study.status().full["error"] > 0.7 and study.status().full["expected"] == "untrained"


def test_the_figure_is_the_users_own_loops_and_is_shown_everywhere(tmp_path, model, capsys):
    images, labels = SPLITS["validation"]
    inputs = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        own = (model(inputs).argmax(1) != labels).double().mean().item()
    study = create(tmp_path / "study", model, task(), expect_error=own)
    kept = json.loads((tmp_path / "study" / "study.json").read_text())
    assert kept["full"]["error"] == own and kept["full"]["size"] == IMAGES and kept["full"]["expected"] == own
    assert kept["preprocessing"] == task().preprocessing
    assert study.status().full == View(tmp_path / "study").status().full
    study.run(1)
    output.show(tmp_path / "study", False)
    assert f"full network: error {100 * own:.2f}% +-" in capsys.readouterr().out
    from secateur.studies.views.text import status_text

    said = status_text(study.status())
    assert "on 400 validation examples" in said and "mean 0.3 0.2 0.25, std 0.05 0.05 0.06" in said


def test_a_figure_far_from_the_expected_one_stops_a_study(tmp_path, model):
    with pytest.raises(ValueError, match="and 30.00% was expected"):
        create(tmp_path / "study", model, task(), expect_error=0.3)
    for wrong in (-1, float("nan"), True, "none"):
        with pytest.raises(ValueError, match="expected an error to be held against, or 'untrained'"):
            create(tmp_path / "study", model, task(), expect_error=wrong)


def test_a_study_of_before_shows_what_it_knows(tmp_path, model):
    create(tmp_path / "study", model, task())
    file = tmp_path / "study" / "study.json"
    kept = json.loads(file.read_text())
    del kept["full"], kept["preprocessing"]
    file.write_text(json.dumps(kept))
    assert View(tmp_path / "study").status().full == {}
    file.write_text(json.dumps(kept | {"full": ["odd"], "preprocessing": 3}))
    assert View(tmp_path / "study").status().full == {}


def test_the_usual_floor_is_halfway_to_a_guess():
    data, usual = task(), sc.Search(fidelity="short")
    assert floor(Judgement(error=0.1), data, usual) == (0.1 + data.guess) / 2
    assert floor(Judgement(error=0.1), data, replace(usual, max_error=0.3)) == 0.3
    for judgement in (Judgement(), Judgement(error=0.8)):
        assert floor(judgement, data, usual) is None, "nothing is known, or the full network guesses too"
    for other in (replace(usual, fidelity="recalibrated"), replace(usual, evaluator=lambda build, **rest: 0.5)):
        assert floor(Judgement(error=0.1), data, other) is None, "errors of another kind than the full network's"
    with pytest.raises(ValueError, match="max_error=-1"):
        sc.Search(max_error=-1.0)
