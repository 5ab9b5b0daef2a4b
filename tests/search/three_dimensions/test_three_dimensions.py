"""Which networks are proposed, with what notes, after what was told."""

import numpy as np
import optuna
import pytest
import torch
from landscapes import LANDSCAPES, line_net, line_space, shares, tiny_net, tiny_space
from optuna.trial import TrialState
from torch import nn

from secateur.search.problem import NOTE, Problem
from secateur.search.three_dimensions.dimensions import Polynomial, optimum
from secateur.search.three_dimensions.shrinking import shrinking_of
from secateur.search.three_dimensions.three_dimensions import TARGETS, ThreeDimensionsSampler
from secateur.spaces import Space, build
from secateur.spaces.networks.inheriting import inherited
from secateur.studies.study_files.networks import resnet20

FAILED, STAND_IN = "failed", "stand-in"


def residual_space():
    """Five sides, seven removable blocks, widths from 4 to 64."""
    model = resnet20().eval()
    return Space.trace(model, torch.zeros(1, 1, 28, 28), resolutions=(14, 16, 20, 24, 28), divisor=4)


@pytest.fixture(scope="module")
def space():
    return residual_space()


def problem_of(space, share=0.37, objectives=("error", "macs"), **more):
    full = space.full_costs["macs"]
    return Problem(space=space, objectives=objectives, limits={"macs": share * full} if share else {}, **more)


def smooth(space, **options):
    """1 - error = f((1 + d) / 2) f(w) f(r), f(x) = x (2 - x): a product of quadratics."""
    ratios = shrinking_of(space, **options)

    def error(candidate):
        depth, width, side = ratios.of(candidate)
        return 1 - float(np.prod([x * (2 - x) for x in ((1 + depth) / 2, width, side)]))

    return error


def search(problem, error, trials, batch=1, start=(), **options):
    """A study told batch by batch; `error` may also answer FAILED or STAND_IN."""
    study = optuna.create_study(directions=["minimize"] * len(problem.objectives))
    for number in range(trials):
        if number % batch == 0:
            running = []
        study.sampler = ThreeDimensionsSampler(problem=problem, **options)
        if number < len(start):
            study.enqueue_trial(problem.params(start[number]))
        trial = study.ask()
        params = {axis.name: trial.suggest_int(axis.name, 0, len(axis.choices) - 1) for axis in problem.space.axes}
        running.append((trial, problem.candidate(params)))
        if len(running) == batch:
            for trial, candidate in running:
                answer = error(candidate)
                if answer == STAND_IN:
                    trial.set_user_attr("evaluated", False)
                state = TrialState.FAIL if answer == FAILED else TrialState.COMPLETE
                values = problem.values(problem.space.encode([candidate]), np.array([0.5]))[0]
                values[problem.objectives.index("error")] = 0.5 if isinstance(answer, str) else answer
                study.tell(trial, None if answer == FAILED else values.tolist(), state=state)
    return study


def seen(study, problem):
    """Of each trial: its candidate, its notes, and whether it is within the limits."""
    rows = []
    for trial in study.trials:
        notes = {key.removeprefix(NOTE): value for key, value in trial.system_attrs.items() if key.startswith(NOTE)}
        candidate = problem.candidate(trial.params)
        rows.append((candidate, notes, bool(problem.within(problem.space.encode([candidate]))[0])))
    return rows


def steps(rows):
    return [(notes["dimensions"]["axis"], notes["dimensions"]["step"]) for _, notes, _ in rows]


def test_the_full_network_then_each_dimension_a_step_at_a_time(space):
    problem = problem_of(space)
    rows = seen(search(problem, smooth(space), 10), problem)
    names = ["depth", "width", "resolution"]
    assert steps(rows) == [("full", 0), *((name, number) for number in (1, 2, 3) for name in names)]
    assert rows[0][0] == space.full
    for candidate, notes, within in rows:
        assert ("reference" in notes) != within  # asked to be left as they are: those beyond the limits, no others
        ratios = notes["dimensions"]["ratios"]
        assert sum(ratio < 1 for ratio in ratios.values()) <= 1
        assert candidate == space.canonical(candidate)
    for number, (_, notes, _) in enumerate(rows):
        assert notes.get("weights") == (f"trial:{number - 3}" if number > 3 else None)
    # The last step of a dimension is the first network of its line that meets the least target by itself, if any does.
    least = TARGETS[-1] * problem.limits["macs"]
    assert space.cost_table([rows[8][0]])["macs"][0] <= least < space.cost_table([rows[5][0]])["macs"][0]


def test_parents_hold_all_that_their_children_keep():
    model = tiny_net()
    space = tiny_space(model)
    problem = problem_of(space)
    rows = seen(search(problem, lambda c: LANDSCAPES["bowl"](shares(space, c)), 8), problem)
    chained = 0
    for candidate, notes, _ in rows:
        if "weights" in notes:
            parent = rows[int(notes["weights"].removeprefix("trial:"))][0]
            tensors = inherited(space, parent, candidate, build(model, space, parent).state_dict())
            build(model, space, candidate).load_state_dict(tensors)
            chained += 1
    assert chained >= 2


def test_the_first_proposal_of_the_fit_is_the_best_there_is(space):
    """The error is a product of cubics, so ten samples tell it; no network of the grid within the limit is better."""
    problem = problem_of(space, objectives=("error",))
    error = smooth(space)
    rows = seen(search(problem, error, 13), problem)
    candidate, notes, within = rows[10]
    grid, encoded = shrinking_of(space).grid()
    allowed = encoded[problem.within(encoded)]
    least = min(error(space.canonical(row)) for row in allowed.tolist())
    assert within and error(candidate) == pytest.approx(least, abs=1e-9)
    for candidate, notes, within in rows[10:]:
        assert within and notes["predicted"]["error"] == pytest.approx(error(candidate), abs=1e-9)
        assert notes["predicted"]["std"] < 1e-6 and "weights" not in notes and "reference" not in notes
        assert notes["dimensions"]["target"] == 1.0
    model = rows[10][1]["model"]
    assert (model["kind"], model["K"], model["R"], model["samples"]) == ("three-dimensions", 3, 1, 10)
    assert model["rmse"] < 1e-6 < model["mean_rmse"] and "lowered" not in model


class Wide(nn.Module):
    """One hidden width of 200 choices."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 200, 1)
        self.head = nn.Linear(200, 2)

    def forward(self, x):
        return self.head(self.stem(x).relu().mean((2, 3)))


class Idealised(Space):
    """The same networks at the costs of the closed form."""

    def cost_table(self, candidates):
        ratios = shrinking_of(self, width="uniform")
        encoded = candidates.tolist() if isinstance(candidates, np.ndarray) else candidates
        x = np.stack([ratios.of(one) for one in encoded])
        return {"macs": 1e6 * np.prod(np.maximum(x, 1e-3) ** np.array(ratios.exponents), axis=1)}


def test_closed_form_and_enumeration_agree_where_costs_are_ideal():
    """Fine widths and sides at costs w^2 r^2: the network found is as good as the optimum noted, but for rounding."""
    found = Space.trace(Wide(), torch.zeros(1, 1, 40, 40), resolutions=range(20, 41), divisor=1)
    space = Idealised(**{name: getattr(found, name) for name in found.__dataclass_fields__})
    problem = problem_of(space, share=0.4, objectives=("error",))

    def error(candidate):  # f(x) = x (2 - x) in width, x (1.5 - x / 2) in the side
        width, side = shrinking_of(space, width="uniform").of(candidate)
        return 1 - width * (2 - width) * side * (1.5 - side / 2)

    rows = seen(search(problem, error, 8, width="uniform"), problem)
    candidate, notes, _ = rows[7]
    truth = Polynomial(np.multiply.outer([0, 2, -1.0], [0, 1.5, -0.5]))
    closed = optimum(truth, [2, 2], 0.4)
    assert list(notes["model"]["optimum"].values()) == pytest.approx(closed.tolist(), abs=1e-4)
    assert (closed < 1).all()
    # Sides come in steps of 1/40: half a step of the side, with the width that then is left.
    lower, upper = ([0.4**0.5 / side, side] for side in closed[1] + np.array([-0.0125, 0.0125]))
    rounded = min(truth(np.array([lower, upper]))) - 0.005  # widths in steps of 1/200
    assert rounded <= 1 - error(candidate) <= truth(closed[None])[0]
    assert shrinking_of(space, width="uniform").of(candidate) == pytest.approx(closed, abs=0.03)


def test_targets_take_turns_and_give_a_front(space):
    problem = problem_of(space)
    rows = seen(search(problem, smooth(space), 20), problem)[10:]
    assert [notes["dimensions"]["target"] for _, notes, _ in rows] == [*TARGETS, *TARGETS]
    macs = [float(space.cost_table([candidate])["macs"][0]) for candidate, _, _ in rows]
    for cost, (_, notes, within) in zip(macs, rows, strict=True):
        assert within and cost <= notes["dimensions"]["target"] * problem.limits["macs"]
    assert macs[:5] == sorted(macs[:5], reverse=True) and macs[4] < 0.4 * macs[0]
    assert len({candidate for candidate, _, _ in rows}) == 10


def test_without_a_limit_the_targets_are_shares_of_the_full_network(space):
    rows = seen(search(problem_of(space, share=None), smooth(space), 14), problem_of(space, share=None))
    assert not any("reference" in notes for _, notes, _ in rows)
    assert [notes["dimensions"]["target"] for _, notes, _ in rows[10:]] == [0.85, 0.7, 0.5, 0.35]
    full = space.full_costs["macs"]
    for candidate, notes, _ in rows[10:]:
        assert space.cost_table([candidate])["macs"][0] <= notes["dimensions"]["target"] * full


@pytest.mark.parametrize("batch", [2, 5])
def test_mates_of_a_batch_never_wait_for_one_another(space, batch):
    problem = problem_of(space)
    rows = seen(search(problem, smooth(space), 4 * batch + 12 // batch * batch, batch=batch), problem)
    assert len({candidate for candidate, _, _ in rows}) == len(rows)
    for number, (candidate, notes, within) in enumerate(rows):
        assert within or "reference" in notes
        if "weights" in notes:
            parent = int(notes["weights"].removeprefix("trial:"))
            assert parent // batch < number // batch
            assert all(small <= large for small, large in zip(candidate, rows[parent][0], strict=True))
    planned = [step for step in steps(rows) if step[0] in ("depth", "width", "resolution")]
    assert len(planned) == len(set(planned)) == 9
    if batch > 3:
        mixed = [notes["dimensions"] for _, notes, _ in rows if "mix" in notes["dimensions"]]
        assert mixed and all(within for _, notes, within in rows if "mix" in notes["dimensions"])
        assert sum(ratio < 1 for ratio in mixed[0]["ratios"].values()) >= 2


def test_equal_trials_give_equal_proposals(space):
    problem = problem_of(space)
    first, second = (search(problem, smooth(space), 12, batch=3) for _ in range(2))
    assert [trial.params for trial in first.trials] == [trial.params for trial in second.trials]
    assert [trial.system_attrs for trial in first.trials] == [trial.system_attrs for trial in second.trials]


def test_an_infinite_error_is_no_sample(space):
    problem = problem_of(space)
    error = smooth(space)
    rows = seen(
        search(problem, lambda c: float("inf") if problem.within(space.encode([c]))[0] else error(c), 11), problem
    )
    finite = sum(not within for _, _, within in rows[:10])
    assert rows[10][1]["model"]["samples"] == finite == 6 and np.isfinite(rows[10][1]["predicted"]["std"])


@pytest.mark.parametrize("answer", [FAILED, STAND_IN])
def test_after_a_failed_step_the_last_good_one_is_the_parent(space, answer):
    problem = problem_of(space)
    clean = seen(search(problem, smooth(space), 10), problem)
    broken = {clean[4][0], clean[2][0]}  # depth 2 and width 1
    error = smooth(space)
    rows = seen(search(problem, lambda c: answer if c in broken else error(c), 14), problem)
    assert [candidate for candidate, _, _ in rows[:10]] == [candidate for candidate, _, _ in clean]
    parents = [notes.get("weights") for _, notes, _ in rows[:10]]
    assert parents == [None, None, None, None, "trial:1", None, "trial:3", "trial:1", "trial:5", "trial:6"]
    # 8 of 10 samples are left: 7 numbers of the polynomial at most.
    lowered = rows[10][1]["model"]["lowered"]
    assert lowered == {"depth": 2, "width": 2} and rows[10][1]["model"]["samples"] == 8
    assert rows[10][1]["predicted"]["error"] == pytest.approx(error(rows[10][0]), abs=1e-6)


def test_where_every_sample_fails_networks_between_are_tried(space):
    problem = problem_of(space)
    rows = seen(search(problem, lambda c: 0.1 if c == space.full else FAILED, 13), problem)
    assert [notes["dimensions"].get("mix") for _, notes, _ in rows[10:]] == [0, 1, 2]
    assert all(within for _, _, within in rows[10:])


def test_seeds_on_the_way_are_taken_for_samples(space):
    """A line's own network, told before by others, is not proposed again; its weights may be of other channels."""
    problem = problem_of(space)
    clean = seen(search(problem, smooth(space), 10), problem)
    start = [space.full, clean[3][0], space.uniform(0.5)]
    rows = seen(search(problem, smooth(space), 13, start=start), problem)
    tail = [(notes["dimensions"]["axis"], notes["dimensions"]["step"]) for _, notes, _ in rows[3:11]]
    assert ("resolution", 1) not in tail and len(tail) == len(set(tail))
    second = next(notes for _, notes, _ in rows[3:] if steps([(0, notes, 0)]) == [("resolution", 2)])
    assert "weights" not in second
    assert rows[11][1]["model"]["samples"] == 10  # a uniform network is none that a threshold gives


def test_without_references_only_the_full_network_is_beyond_the_limits(space):
    problem = problem_of(space)
    error = smooth(space)
    rows = seen(search(problem, error, 11, references=False), problem)
    assert [within for _, _, within in rows] == [False] + 10 * [True]
    assert [number for number, (_, notes, _) in enumerate(rows) if "reference" in notes] == [0]
    assert not any("weights" in notes for _, notes, _ in rows)
    assert not ThreeDimensionsSampler(problem=problem, references=False).names_parents
    assert ThreeDimensionsSampler(problem=problem).names_parents
    last = rows[-1]
    assert last[1]["predicted"]["error"] == pytest.approx(error(last[0]), abs=0.02)


@pytest.mark.parametrize("options", [{"polynomial": "full"}, {"rank": 2}, {"degree": 2}, {"samples": 3}])
def test_other_polynomials_find_a_good_network_too(space, options):
    problem = problem_of(space, objectives=("error",))
    error = smooth(space)
    rows = seen(search(problem, error, 14, **options), problem)
    _, encoded = shrinking_of(space).grid()
    least = min(error(space.canonical(row)) for row in encoded[problem.within(encoded)].tolist())
    assert min(error(candidate) for candidate, _, within in rows if within) <= least + 0.01
    model = rows[-1][1]["model"]
    if options == {"samples": 3}:
        assert rows[7][1]["model"]["lowered"] == {"depth": 2, "width": 2, "resolution": 2}
    else:
        assert model[{"polynomial": "polynomial", "rank": "R", "degree": "K"}[next(iter(options))]] in options.values()


def test_a_space_of_one_dimension_and_few_networks_is_used_up():
    space = line_space(line_net())  # widths 2, 4, 6, 8
    problem = Problem(space=space, objectives=("error", "params"))
    rows = seen(search(problem, lambda c: 1 / c[0], 6), problem)
    assert sorted(candidate[0] for candidate, _, _ in rows[:4]) == [2, 4, 6, 8]
    assert rows[4][0] in {candidate for candidate, _, _ in rows[:4]}


def test_it_runs_under_optuna_alone():
    space = tiny_space(tiny_net())
    problem = problem_of(space, share=0.5)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=ThreeDimensionsSampler(problem=problem))

    def objective(trial):
        places = {axis.name: trial.suggest_int(axis.name, 0, len(axis.choices) - 1) for axis in space.axes}
        candidate = problem.candidate(places)
        return LANDSCAPES["bowl"](shares(space, candidate)), float(space.cost_table([candidate])["macs"][0])

    study.optimize(objective, n_trials=20)
    inside = [trial.values[0] for trial in study.trials if trial.values[1] <= problem.limits["macs"]]
    assert len(inside) >= 10
    encoded = space.encode(list(dict.fromkeys(space.sample(2000, seed=0))))
    fine = encoded[problem.within(encoded)]
    errors = [LANDSCAPES["bowl"](shares(space, row)) for row in fine.tolist()]
    assert min(inside) < np.quantile(errors, 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"polynomial": "cubic"}, "expected one of product, full"),
        ({"degree": 0}, "degree=0"),
        ({"samples": 1}, "samples=1"),
        ({"targets": ()}, "shares in"),
        ({"targets": (1.5,)}, "shares in"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ThreeDimensionsSampler(problem=problem_of(tiny_space(tiny_net())), **options)
