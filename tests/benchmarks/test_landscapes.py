"""The recorded landscapes are whole and give the same errors always; replays on them are what they say."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def efficiency():
    """The script, imported as when it is run."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import search_efficiency
    finally:
        sys.path.remove(str(BENCHMARKS))
    return search_efficiency


@pytest.fixture(scope="module", params=["groups", "layers"])
def landscape(request, efficiency):
    return efficiency.load(request.param)


def test_samples_are_different_legal_networks(landscape):
    space = landscape.space
    assert len(np.unique(landscape.encoded, axis=0)) == len(landscape.encoded) >= 2000
    assert all(space.canonical(row) == tuple(row) for row in landscape.encoded[::50].tolist())
    assert ((landscape.measured > 0) & (landscape.measured <= 0.95)).all()
    assert 0.002 < landscape.noise < 0.02  # sqrt(0.1 * 0.9 / 5000) = 0.0042


def test_sizes_are_spread(landscape):
    space = landscape.space
    share = landscape.space.cost_table(landscape.encoded)["macs"] / space.full_costs["macs"]
    assert all(
        ((share > low) & (share <= high)).sum() > 100 for low, high in [(0, 0.03), (0.03, 0.1), (0.1, 0.3), (0.3, 1)]
    )


def test_the_table_is_complete(efficiency):
    landscape = efficiency.load("groups")
    sizes = [len(axis.choices) for axis in landscape.space.axes]
    assert sizes == [4, 4, 4, 2, 2, 2, 4] and np.prod(sizes) == 2048 == len(landscape.encoded)
    assert np.array_equal(landscape.error(landscape.encoded), landscape.measured)
    assert np.isfinite(landscape.tuned).sum() >= 200


def test_the_layers_predict_held_out_networks(efficiency):
    landscape = efficiency.load("layers")
    kinds = [axis.kind for axis in landscape.space.axes]
    assert kinds == ["width"] * 12 + ["depth"] * 3 + ["resolution"]
    facts = landscape.facts
    assert facts["model"] in ("forest", "process") and facts["r2"][facts["model"]] == max(facts["r2"].values()) > 0.9
    error = landscape.error(landscape.encoded)
    assert 1 - ((error - landscape.measured) ** 2).mean() / landscape.measured.var() > facts["r2"][facts["model"]]


def test_what_no_network_has_is_the_same_to_the_landscape(efficiency):
    """Widths within removed blocks change nothing."""
    space = efficiency.load("layers").space
    one = list(space.smallest)
    other = list(one)
    gone = [i for i, axis in enumerate(space.axes) if axis.kind == "width" and one[i] == axis.full]
    assert len(gone) == 6
    for i in gone:
        other[i] = space.axes[i].choices[0]
    errors = efficiency.load("layers").error(np.array([one, other]))
    assert errors[0] == errors[1]


def test_noise_is_drawn_by_candidate_and_seed(landscape):
    some = landscape.encoded[:200]
    first = landscape.noisy(some, 3)
    assert np.array_equal(first, landscape.noisy(some[::-1], 3)[::-1])
    assert not np.array_equal(first, landscape.noisy(some, 4))
    true = landscape.error(some)
    # A mean square of 200 standard normal draws is 1 with a standard error of sqrt(2 / 200) = 0.1.
    assert 0.6 < (((first - true) / landscape.error_std(true)) ** 2).mean() < 1.4


def test_replays_are_the_same_again(landscape, efficiency):
    one, two = (efficiency.replay(landscape, "random", trials=30, seed=5) for _ in range(2))
    assert one["encoded"] == two["encoded"] and one["told"] == two["told"]
    assert len({tuple(row) for row in one["encoded"]}) == 30
    assert one["encoded"][0] == list(landscape.space.full)


@pytest.mark.parametrize("against", ["chance", "twice"])
def test_the_hypervolume_never_falls(efficiency, against):
    found = efficiency.replay(efficiency.load("groups"), "random", trials=40, seeded=False)
    volumes = efficiency.curve("groups", found["encoded"], 0.5, against)
    assert (np.diff(volumes) >= 0).all() and volumes[0] == 0 and 0 < volumes[-1] <= 1


def test_the_whole_table_has_all_of_the_hypervolume(efficiency):
    landscape = efficiency.load("groups")
    assert efficiency.curve("groups", landscape.encoded, 0.5)[-1] == pytest.approx(1)
    assert efficiency.curve("groups", landscape.encoded, 0.3, "twice")[-1] == pytest.approx(1)


@pytest.mark.parametrize("method", ["by_sensitivity", "by_compound"])
def test_methods_that_are_no_samplers_end_within_the_budget(landscape, efficiency, method):
    found = getattr(efficiency, method)(landscape, share=0.5, seed=0)
    _, inside = efficiency.points_of(landscape.name, found["encoded"], 0.5)
    levels = sum(len(axis.choices) - 1 for axis in landscape.space.axes)
    first = 1 + levels if method == "by_sensitivity" else 0
    assert inside[first:].all() and len(inside) > first + 3


def test_sensitivity_measures_each_level_of_each_axis_once(efficiency):
    landscape = efficiency.load("groups")
    found = np.array(efficiency.by_sensitivity(landscape, share=0.5, seed=0)["encoded"])
    alone = found[: 1 + 9 + 3 + 3]  # the full network; 3 widths and the side of 4 levels, 3 depths of 2: 3 * 3 + 3 + 3
    assert ((alone != landscape.space.full).sum(axis=1) == [0] + [1] * 15).all()
