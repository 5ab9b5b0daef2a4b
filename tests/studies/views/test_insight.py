"""What a search says of its own seeds and foresight, on hand-made trials."""

import math
from dataclasses import replace

import pytest
from handmade import OBJECTIVES, trial

from secateur.studies.views.status import foresight, history, seeds_worth


def planted(number, error, macs, source="seed:uniform", **changes):
    return replace(trial(number, error, macs, **changes), source=source)


def predicted(number, error, predicted):
    notes = {"secateur:predicted": {"error": predicted, "std": 0.01}, "secateur:model": {"kind": "polynomial"}}
    return replace(trial(number, error, 10), memory=notes)


def test_what_seeds_were_worth():
    """Seeds' front (0.4, 20): area (0.6 - 0.4) * (40 - 20) = 4 under the worst corner (0.6, 40).

    With (0.2, 30) since: 4 + (0.4 - 0.2) * (40 - 30) = 6. So the seeds' share is 4 / 6.
    """
    trials = [planted(0, 0.6, 40), planted(1, 0.4, 20), trial(2, 0.2, 30), planted(3, 0.1, 90)]
    found = seeds_worth(trials, OBJECTIVES, {"macs": 50})
    assert found == {"seeds": 2, "best_error": 0.4, "best_error_since": 0.2, "share": pytest.approx(4 / 6)}


def test_seeds_that_are_all_over_the_limit_and_searches_without_any():
    found = seeds_worth([planted(0, 0.1, 90), trial(1, 0.2, 30)], OBJECTIVES, {"macs": 50})
    assert found == {"seeds": 0, "best_error": None, "best_error_since": 0.2, "share": None}
    assert seeds_worth([trial(1, 0.2, 30)], OBJECTIVES, {"macs": 50}) == {}


def test_foresight_beside_the_mean_so_far():
    """Missed by 0.1, 0.1, 0.2: rmse = sqrt(0.06 / 3). The means before them: 0.5, 0.45, 0.4."""
    trials = [trial(0, 0.5, 10), predicted(1, 0.4, 0.5), predicted(2, 0.3, 0.2), predicted(3, 0.2, 0.4)]
    found = foresight(trials)
    assert found["trials"] == 3 and found["model"] == {"kind": "polynomial"}
    assert found["rmse"] == pytest.approx(math.sqrt(0.06 / 3))
    assert found["rmse_of_mean"] == pytest.approx(math.sqrt((0.01 + 0.0225 + 0.04) / 3))


def test_foresight_of_nothing():
    assert foresight([trial(0, 0.5, 10)]) == {}
    assert foresight([predicted(0, 0.4, 0.5)]) == {"trials": 1, "model": {"kind": "polynomial"}}


def test_the_history_of_a_search():
    """Under the worst corner (0.6, 40) the front's area is 0, then 4 with (0.4, 20), then 6 with (0.2, 30).

    The trial over the limit changes nothing.
    """
    trials = [trial(0, 0.6, 40), trial(1, 0.1, 90), trial(2, 0.4, 20), trial(3, 0.2, 30)]
    assert history(trials, OBJECTIVES, {"macs": 50}) == {
        "trials": [1, 2, 3, 4],
        "best_error": [0.6, 0.6, 0.4, 0.2],
        "hypervolume": [0.0, 0.0, pytest.approx(4 / 6), 1.0],
    }
    assert history([], OBJECTIVES, {"macs": 50}) == {}
    over = history([trial(0, 0.1, 90)], OBJECTIVES, {"macs": 50})
    assert over == {"trials": [1], "best_error": [None], "hypervolume": [None]}


def test_a_long_history_has_few_moments():
    trials = [trial(number, 1 / (1 + number), number + 1) for number in range(1000)]
    found = history(trials, OBJECTIVES, {})
    assert found["trials"][0] == 1 and found["trials"][-1] == 1000 and len(found["trials"]) == 40
    assert found["best_error"] == sorted(found["best_error"], reverse=True)
    assert found["hypervolume"] == sorted(found["hypervolume"]) and found["hypervolume"][-1] == 1.0
