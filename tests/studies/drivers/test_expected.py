"""Which network is named the best where measurements are noisy: the one that all trials speak for, not the luckiest."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from landscapes import LANDSCAPES, Instant, searching, shares, tiny_net, tiny_space, tiny_task

from secateur import Budget, Study
from secateur.search import Problem, Told, expected_errors
from secateur.studies.trials.front import expected_of
from secateur.studies.trials.trial import best_within
from secateur.studies.views.text import status_text

MODEL = tiny_net()
SPACE = tiny_space(MODEL)
STD = 0.05


class Noisy(Instant):
    """Errors with a standard error, as of a few hundred examples; each candidate's luck is its own."""

    def __call__(self, build, **rest):
        found = super().__call__(build, **rest)
        luck = np.random.default_rng(rest["seed"] % 2**32).normal(0, STD)
        return replace(found, error=max(found.error + luck, 0.01), error_std=STD)


def told(count, seed, std):
    random = np.random.default_rng(seed)
    encoded = np.stack([random.choice(axis.choices, count) for axis in SPACE.axes], 1)
    true = np.array([LANDSCAPES["bowl"](shares(SPACE, candidate)) for candidate in encoded])
    error = np.maximum(true + random.normal(0, STD, count), 0.01)
    rest = {"values": error[:, None], "feasible": np.ones(count, bool), "pending": encoded[:0]}
    return true, Told(numbers=np.arange(count) + 5, encoded=encoded, error=error, error_std=np.full(count, std), **rest)


def test_it_is_nearer_to_the_truth_than_the_luckiest_is():
    problem, lucky, named = Problem(space=SPACE, objectives=("error", "macs"), limits={}), [], []
    for seed in range(6):
        true, seen = told(40, seed, STD)
        expected = expected_errors(problem, seen)
        assert set(expected) == set(seen.numbers)
        lucky.append(true[seen.error.argmin()] - true.min())
        named.append(true[min(expected, key=expected.get) - 5] - true.min())
    assert np.mean(named) < 0.6 * np.mean(lucky)


@pytest.mark.parametrize(("count", "std"), [(40, np.nan), (40, 0.0), (4, STD)])
def test_nothing_is_expected_where_nothing_is_known(count, std):
    assert expected_errors(Problem(space=SPACE, objectives=("error", "macs"), limits={}), told(count, 0, std)[1]) == {}


def test_status_and_export_name_it_and_say_both_figures(tmp_path, caplog):
    study = Study.create(
        tmp_path / "s",
        **searching({"model": MODEL, "task": tiny_task(), "space": SPACE, "budget": Budget(macs=0.9), "threads": 1})
        | {"search": searching({"sampler": "random", "evaluator": Noisy(SPACE), "threads": 1})["search"]},
    )
    study.run(24)
    trials = study._engine.ledger.trials
    expected = expected_of(trials, study._engine.ledger.notes)
    best, lowest = (best_within(trials, ("error", "macs"), study.limits(), one) for one in (expected, None))
    assert best is not lowest, "the case is about the two being different"
    for status in (study.status(), Study.look(tmp_path / "s").status()):
        assert status.best.number == best.number and status.best_expected == expected[best.number]
    said = f"trial {best.number}, error {100 * best.error:.2f}% ({100 * expected[best.number]:.2f}% expected)"
    assert said in status_text(study.status())
    with caplog.at_level(logging.INFO, "secateur"):
        (folder,) = study.export(tmp_path / "out", finetune_epochs=0, formats=("safetensors",))
    assert folder.name.startswith(f"trial-{best.number:04d}") and f"and not trial {lowest.number} " in caplog.text
    trial = study.ask()
    study.tell(trial, 0.001)
    assert study.status().best.number == trial.number and study.status().best_expected is None
