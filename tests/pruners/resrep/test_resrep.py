"""ResRep: the gradient rule, the walk of the mask, the dynamics of a row, and whole trainings."""

import copy
import io

import networks
import numpy as np
import pytest
import tasks
import torch
from networks import network
from pruning import Loop, examples_for

from secateur.evaluators import Training, train
from secateur.pruners import Request, realised
from secateur.pruners.resrep.compactors import row_norms
from secateur.pruners.resrep.folding import difference, examples, outputs
from secateur.pruners.resrep.resrep import ResRep, _forget, _settle, lasso, own_group, schedule
from secateur.pruners.resrep.walk import mask_walk, walk_path
from secateur.spaces import Space, stays
from secateur.studies.study_files.networks import resnet50


def fresh(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return networks.Residual(6, 2, 3)


def traced(model, divisor=1):
    return Space.trace(model, torch.zeros(1, 3, 8, 8), divisor=divisor)


def macs(space, share):
    return {"macs": share * float(space.costs([space.full])["macs"].iloc[0])}


# --- the gradient rule ------------------------------------------------------------------------------------------------


def test_only_the_objective_gradient_is_masked():
    q, gradient = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]]), torch.full((3, 2), 10.0)
    got = lasso(q, gradient, torch.tensor([0, 1, 0]), 0.1)  # 0.1 * (3, 4) / 5 = (0.06, 0.08)
    assert torch.allclose(got, torch.tensor([[0.06, 0.08], [10.06, 10.08], [0.0, 0.0]]))
    got = lasso(torch.tensor([2.0, -3.0, 0.0]), torch.tensor([10.0, 10.0, 10.0]), torch.tensor([0, 1, 1]), 0.1)
    assert torch.allclose(got, torch.tensor([0.1, 9.9, 10.0]))


def test_a_row_crosses_zero_after_109_steps():
    # terminal speed lr * strength / (1 - 0.9) = 0.01 a step; after n steps from rest 0.01 * (n - 9 * (1 - 0.9 ** n)),
    # 0.9900010 after 108 and 1.0000009 after 109
    q = torch.nn.Parameter(torch.tensor([[0.6, 0.8]], dtype=torch.float64))
    optimizer = torch.optim.SGD([q], lr=0.1, momentum=0.9)
    norms = []
    while float(q.detach().min()) > 0:
        q.grad = lasso(q.detach(), torch.ones_like(q), torch.tensor([0]), 1e-2)
        optimizer.step()
        norms.append(float(q.detach().norm()))
    assert len(norms) == 109 and norms[107] == pytest.approx(0.009999, abs=1e-6)


# --- the mask ---------------------------------------------------------------------------------------------------------

NORMS = [np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.3, 0.4])]
LEAST = np.array([1, 1])


def toy(target):
    """`f(w) = 3 w0 + w0 w1 + 2 w1`, 24 of the full (3, 3)."""
    return lambda kept: 3 * kept[:, 0] + kept[:, 0] * kept[:, 1] + 2 * kept[:, 1] <= target


def masked(masks):
    return {(group, row) for group, mask in enumerate(masks) for row in np.flatnonzero(~mask)}


def test_the_walk_of_two_layers():
    first = mask_walk(NORMS, toy(0), 2, LEAST)
    assert masked(first) == {(0, 0), (1, 0)}
    second = mask_walk(NORMS, toy(0), 4, LEAST)  # (1, 2) is visited, skipped, and counted
    assert masked(second) == {(0, 0), (1, 0), (1, 1), (0, 1)}
    reached = mask_walk(NORMS, toy(12), 4, LEAST)  # (2, 1): 6 + 2 + 2 = 10; (2, 2) costs 14
    assert masked(reached) == {(0, 0), (1, 0), (1, 1)}


def test_a_walk_without_end_stops_at_the_limit_or_at_the_least_widths():
    assert masked(mask_walk(NORMS, toy(24), None, LEAST)) == set()
    assert [int(mask.sum()) for mask in mask_walk(NORMS, toy(0), None, LEAST)] == [1, 1]
    assert [int(mask.sum()) for mask in mask_walk(NORMS, toy(0), None, np.array([2, 3]))] == [2, 3]


def test_a_path_can_start_below_the_full_widths():
    path, order = walk_path(NORMS, np.array([1, 2]), LEAST)  # rows 0 and 1 of the first, 0 of the second are gone
    assert order == [(1, 1)] and path.tolist() == [[1, 2], [1, 1]]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_mask_meets_the_limits_and_not_more(share):
    model, example = network("residual")
    space = Space.trace(model, example, divisor=1)
    limits = macs(space, share)
    phase = ResRep(theta=10_000).start(Request(model, space, limits))
    with torch.no_grad():
        for q in phase.model.parameters():
            if q.ndim == 2 and q.shape[0] == q.shape[1]:
                q *= torch.rand(len(q), 1, generator=torch.Generator().manual_seed(len(q)))
    phase.schedule = {"theta": 10_000}
    phase._update()
    kept = np.array([[int(mask.sum()) for mask in phase.masks]])
    assert bool(phase._fits(kept)[0])
    norms = phase._norms()
    gone = [(norm[row], group, row) for group, norm in enumerate(norms) for row in np.flatnonzero(~phase.masks[group])]
    _, group, _ = max(gone)
    kept[0, group] += 1
    assert not bool(phase._fits(kept)[0])


def test_the_mask_grows_by_theta_and_is_made_again():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=1)
    phase = ResRep().start(Request(model, space, macs(space, 0.1)))
    phase.schedule = {"theta": 4}
    with torch.no_grad():
        for q in phase._compactors():
            q *= torch.rand(len(q), 1, generator=torch.Generator().manual_seed(len(q)))
    counts, masks = [], []
    for _ in range(3):
        phase._update()
        counts.append(sum(int((~mask).sum()) for mask in phase.masks))
        masks.append(copy.deepcopy(phase.masks))
    assert counts == [4, 8, 12]
    row = int(torch.where(~masks[-1][0])[0][0])
    with torch.no_grad():
        phase._compactors()[0][row] *= 1e3  # a masked row that has grown
    phase._update()
    assert phase.masks[0][row] and sum(int((~mask).sum()) for mask in phase.masks) == 16


def test_several_limits_are_met_at_once_and_widths_are_legal():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=4)
    full = space.costs([space.full]).iloc[0]
    limits = {"macs": 0.6 * full["macs"], "params": 0.4 * full["params"], "peak_bytes": 0.95 * full["peak_bytes"]}
    proposal = trained(ResRep(), model, space, limits).proposal()
    costs = space.costs([proposal.candidate]).iloc[0]
    assert all(costs[name] <= limit for name, limit in limits.items())
    assert all(width % 4 == 0 for width in proposal.candidate[: len(space.groups)])


# --- the schedule -----------------------------------------------------------------------------------------------------


def test_a_long_training_has_the_published_schedule():
    # ResNet-50: 180 epochs of 5,004 steps; 3,242 rows / 4 * 200 = 162,100 steps until the target, of 450,360 half-way
    found = schedule(ResRep(), 3242, steps=180 * 5004, epochs=180, rate=0.01)
    assert found == {
        "steps": 900_720,
        "momentum": 0.99,
        "strength": 1e-4,
        "start": 25_020,
        "interval": 200,
        "theta": 4,
    }


@pytest.mark.parametrize("steps", [1, 6, 100, 1000, 5000])
@pytest.mark.parametrize("to_go", [1, 50, 4000])
def test_a_short_training_masks_all_it_must_by_half_time(steps, to_go):
    found = schedule(ResRep(), to_go, steps=steps, epochs=10, rate=0.05)
    updates = 1 + max(0, round(0.5 * steps) - found["start"]) // found["interval"]
    assert updates * found["theta"] >= to_go
    assert 1e-4 <= found["strength"] and 0 <= found["momentum"] <= 0.99


def test_given_settings_stay():
    given = {"strength": 0.3, "momentum": 0.5, "theta": 7, "interval": 3, "mask_start": 2.0}
    found = schedule(ResRep(**given), 100, steps=100, epochs=10, rate=0.1)
    assert found == {"steps": 100, "strength": 0.3, "momentum": 0.5, "theta": 7, "interval": 3, "start": 20}


def test_the_derived_strength_kills_a_row_that_is_masked_half_way():
    steps, rate = 2000, 0.05
    found = schedule(ResRep(), 100, steps=steps, epochs=40, rate=rate)
    q = torch.nn.Parameter(0.7 * torch.eye(4, dtype=torch.float64))  # the lasso has pulled it since the start
    optimizer = torch.optim.SGD([q], lr=rate, momentum=found["momentum"])
    died = None
    for step in range(steps // 2, steps):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        before = q.detach().clone()
        q.grad = lasso(q.detach(), torch.zeros_like(q), torch.zeros(4), found["strength"])
        optimizer.step()
        if died is None and float((q.detach() * before).sum(1).max()) <= 0:
            died = step
    assert died is not None and died < 0.9 * steps


@pytest.mark.parametrize("epochs", [1, 4])
def test_what_is_masked_fades_in_short_trainings_and_other_rows_are_pulled_no_harder_than_before(epochs):
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    phase = trained(ResRep(), model, space, macs(space, 0.5), epochs=epochs)
    notes = phase.proposal().notes
    assert notes["masked"] > 0 and notes["masked_and_not_faded"] == 0 and "cut_above_epsilon" not in notes
    assert phase.schedule["strength"] > 1e-2 and phase._strengths() == (phase.schedule["strength"], 1e-2)


def test_two_strengths():
    q = torch.diag(torch.tensor([2.0, 4.0])).double()
    found = lasso(q, torch.full((2, 2), 0.5).double(), torch.tensor([1, 0]), 3.0, 0.1)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.5], [0.0, 3.0]]).double())


@pytest.mark.parametrize(
    "given", [{"strength": -1}, {"momentum": 1}, {"theta": 0}, {"interval": 0}, {"least": 0}, {"epsilon": -1e-9}]
)
def test_bad_settings_are_refused(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))}=.*expected"):
        ResRep(**given)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_compactors_have_an_optimizer_group_of_their_own(kind):
    model = fresh()
    phase = ResRep().start(Request(model, traced(model), macs(traced(model), 0.5)))
    seen = []

    class Look:
        def after_step(self, loop):
            seen.append(loop.optimizer.param_groups)

    train(
        phase.model,
        tasks.classification(),
        Training(optimizer=kind, lr=0.01, weight_decay=0.1),
        epochs=1,
        callbacks=[phase, Look()],
    )
    groups = seen[0]
    ours = {id(q) for q in phase._compactors()}
    assert [any(id(p) in ours for p in group["params"]) for group in groups] == [False, False, True]
    assert len(groups[-1]["params"]) == len(ours) and groups[-1]["weight_decay"] == 0
    assert groups[0]["weight_decay"] == 0.1
    if kind == "sgd":
        assert groups[-1]["momentum"] == phase.schedule["momentum"] and not groups[-1]["nesterov"]
        assert groups[0]["momentum"] == 0.9 and groups[0]["nesterov"]


def test_an_optimizer_without_the_compactors_gets_them():
    q, other = torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([other], lr=0.1)
    own_group(optimizer, [q], 0.99)
    assert [group["params"] for group in optimizer.param_groups] == [[other], [q]]


# --- whole trainings --------------------------------------------------------------------------------------------------


def trained(method, model, space, limits, *, epochs=4, lr=0.01):
    example = space.inputs(model, space.full)
    example = example[0] if isinstance(example, tuple) else example
    phase = method.start(Request(model, space, limits))
    Loop(phase, examples_for(model, example, batches=4), epochs=epochs, lr=lr).run()
    return phase


def test_the_cut_is_by_norm_not_by_mask():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    phase = trained(ResRep(), model, space, macs(space, 0.99))
    with torch.no_grad():
        for q, mask in zip(phase._compactors(), phase.masks, strict=True):
            mask[:] = False  # all masked, and
            q[:] = torch.eye(len(q)).to(q)
            q[:3] *= 1e-7  # three rows of each have faded
    proposal = phase.proposal()
    assert proposal.candidate == (5, 13)
    assert not stays(space, proposal.candidate, proposal.scores)[[1, 2, 3, 9, 10, 11]].any()
    assert "cut_above_epsilon" not in proposal.notes
    assert proposal.notes["masked_and_not_faded"] == 5 + 13


def test_rows_that_have_not_faded_go_for_the_budget_the_smallest_first():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    phase = trained(ResRep(strength=1e-2), model, space, macs(space, 0.5))  # too weak for so few steps
    proposal = phase.proposal()
    cut = proposal.notes["cut_above_epsilon"]
    norms = torch.cat([proposal.scores[group.name] for group in space.groups])
    kept = torch.from_numpy(stays(space, proposal.candidate, proposal.scores)[1:])
    assert cut["rows"] == int((~kept).sum()) and cut["largest_norm"] == pytest.approx(float(norms[~kept].max()))
    assert float(norms[~kept].max()) <= float(norms[kept].min())
    assert space.costs([proposal.candidate])["macs"].iloc[0] <= phase.limits["macs"]


def test_legal_widths_keep_faded_rows():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=4)
    phase = trained(ResRep(), model, space, macs(space, 1.0))
    with torch.no_grad():
        for q in phase._compactors():
            q[:] = torch.eye(len(q)).to(q)
            q[:3] = 0
    proposal = phase.proposal()
    assert proposal.candidate == (8, 16)  # 5 and 13 rows are alive
    small = realised(model, space, proposal)
    inputs = examples(model, space)
    assert difference(outputs(small, inputs), outputs(phase.model, inputs)) < 1e-10


def test_all_rows_of_a_layer_may_fade_but_one():
    model, example = network("plain")
    space = Space.trace(model, example, divisor=1)
    phase = trained(ResRep(), model, space, macs(space, 0.99))
    with torch.no_grad():
        phase._compactors()[0][:] *= 1e-9
    assert phase.proposal().candidate[0] == 1
    phase.method = ResRep(least=3)
    phase.widths = type(phase.widths)(space, phase.numbers, 3)
    assert phase.proposal().candidate[0] == 3


@pytest.mark.slow
def test_a_training_long_enough_ends_without_loss():
    model = fresh()
    task = tasks.classification(train=96)
    train(model, task, Training(lr=0.1), epochs=8)
    space = traced(model)
    phase = ResRep().start(Request(model, space, macs(space, 0.5)))
    train(phase.model, task, Training(lr=0.05), epochs=200, callbacks=[phase])
    proposal = phase.proposal()
    assert "cut_above_epsilon" not in proposal.notes and proposal.notes["masked_and_not_faded"] == 0
    small = realised(model, space, proposal)
    images, _, _ = tasks.squares(20, seed=7)
    phase.model.eval(), small.eval()
    with torch.no_grad():
        assert torch.allclose(small(images / 255), phase.model(images / 255), atol=1e-4)
    assert space.costs([proposal.candidate])["macs"].iloc[0] <= phase.limits["macs"]


def test_masked_rows_stop_at_zero():
    model = fresh()
    space = traced(model)
    phases = [ResRep(strength=5.0, momentum=0.5, settle=settle) for settle in (True, False)]
    faded = []
    for method in phases:
        phase = trained(method, model, space, macs(space, 0.5), epochs=10)
        norms = torch.cat([row_norms(q.detach()) for q in phase._compactors()])
        masked = torch.cat([~mask for mask in phase.masks])
        faded.append(int((norms[masked] == 0).sum()) / int(masked.sum()))
    assert faded[0] > 0.5 and faded[1] == 0


def test_a_row_that_moves_sideways_arrives_too():
    # without a rest at the start it would circle around zero: momentum keeps the sideways speed, the pull is central
    q = torch.nn.Parameter(torch.tensor([[0.3, 0.0], [0.0, 0.3]]))
    optimizer = torch.optim.SGD([q], lr=0.1, momentum=0.95)
    optimizer.state[q]["momentum_buffer"] = torch.tensor([[0.0, 0.2], [0.2, 0.0]])
    _forget(q, torch.tensor([True, False]), optimizer)
    assert optimizer.state[q]["momentum_buffer"].tolist() == [[0, 0], [pytest.approx(0.2), 0]]
    mask = torch.tensor([False, True])
    for _ in range(200):
        before = q.detach().clone()
        q.grad = lasso(before, torch.zeros_like(q), mask, 1e-2)
        optimizer.step()
        _settle(q, mask, before, optimizer)
    assert not q[0].any() and not optimizer.state[q]["momentum_buffer"][0].any()
    assert q[1].any()  # not masked: it goes on moving


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resuming_is_bit_identical(optimizer):
    model, task = fresh(), tasks.classification()
    space = traced(model)
    limits, training = macs(space, 0.5), Training(lr=0.02, optimizer=optimizer)
    states = []

    class Keep:
        def after_epoch(self, loop):
            buffer = io.BytesIO()
            torch.save(loop.state(), buffer)
            states.append(buffer.getvalue())

    whole = ResRep().start(Request(model, space, limits))
    train(whole.model, task, training, epochs=4, seed=3, callbacks=[whole, Keep()])
    again = ResRep().start(Request(model, space, limits))
    state = torch.load(io.BytesIO(states[1]), weights_only=True)
    train(again.model, task, training, epochs=4, seed=3, callbacks=[again, Keep()], state=state)
    assert whole.updates == again.updates > 2
    for (key, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    one, two = whole.proposal(), again.proposal()
    assert one.candidate == two.candidate and one.notes == two.notes
    for key in one.weights:
        assert torch.equal(one.weights[key], two.weights[key]), key


def test_where_widths_are_not_enough_the_rest_shrinks_too():
    model, example = network("residual")
    space = Space.trace(model, example, divisor=2, resolutions=[8, 12])
    limits = {"macs": 1.2 * float(space.costs([space.smallest])["macs"].iloc[0])}
    proposal = trained(ResRep(), model, space, limits).proposal()
    assert space.costs([proposal.candidate])["macs"].iloc[0] <= limits["macs"]
    assert realised(model, space, proposal)(example).isfinite().all()


# --- the costs of the published network -------------------------------------------------------------------------------

WIDTHS = [
    *[(22, 22), (23, 36), (1, 1)],
    *[(62, 97), (16, 49), (38, 68), (41, 92)],
    *[(189, 204), (69, 145), (65, 139), (64, 94), (67, 89), (86, 95)],
    *[(473, 488), (171, 281), (511, 512)],
]


def test_the_published_resnet50_costs_what_it_should():
    # multiply-adds with the stride in the 3x3 convolution: 4,089,184,256 -> 1,858,866,887 (0.45458); 3,242 channels go;
    # parameters without batch norms 25,503,912 -> 16,510,767: 2 * 26,560 are the full network's, two a channel
    model = resnet50().eval()
    space = Space.trace(model, torch.zeros(1, 3, 224, 224), divisor=1)
    names = [f"layer{stage}.{block}" for stage, blocks in enumerate((3, 4, 6, 3), start=1) for block in range(blocks)]
    wanted = {f"{n}.conv{i}": w for n, pair in zip(names, WIDTHS, strict=True) for i, w in enumerate(pair, start=1)}
    candidate = list(space.full)
    for number, group in enumerate(space.groups):
        candidate[number] = wanted.get(group.name, group.width)
    assert sum(group.name in wanted for group in space.groups) == 32
    costs = space.costs([space.full, space.check(candidate)])
    norms = 2 * 26_560, 2 * (26_560 - 3_242)
    assert costs["macs"].tolist() == [4_089_184_256, 1_858_866_887]
    assert [p - n for p, n in zip(costs["params"], norms, strict=True)] == [25_503_912, 16_510_767]
