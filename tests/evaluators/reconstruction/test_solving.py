"""Ridge least squares against numbers done by hand, and against independent solvers."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from secateur.evaluators.reconstruction.solving import Sums, best, solved


def sums(z, e, y=None):
    z, e = z.double(), e.double()
    found = Sums.empty(z.shape[1], z.shape[2], e.shape[2], z.device)
    for part in range(2):  # as it comes, in parts
        found.add(z[part::2], e[part::2], (e if y is None else y.double())[part::2])
    return found


def rows(r=40, g=1, d=3, o=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(r, g, d, generator=generator).double(), torch.randn(r, g, o, generator=generator).double()


def test_one_input_by_hand():
    # z = 1, 2, 3; y = 2, 4, 7: means 2 and 13/3; sums of centred products 5 and 2; slope 2.5, y - 2.5 z = -2/3.
    z, y = torch.tensor([1.0, 2, 3]).view(3, 1, 1), torch.tensor([2.0, 4, 7]).view(3, 1, 1)
    change, shift = solved(sums(z, y), 0.0)
    assert float(change) == pytest.approx(2.5, abs=1e-12)
    assert float(shift) == pytest.approx(-2 / 3, abs=1e-12)


def test_one_input_without_a_bias_by_hand():
    # (1*2 + 2*4 + 3*7) / (1 + 4 + 9) = 31 / 14
    z, y = torch.tensor([1.0, 2, 3]).view(3, 1, 1), torch.tensor([2.0, 4, 7]).view(3, 1, 1)
    change, shift = solved(sums(z, y), 0.0, shifts=False)
    assert float(change) == pytest.approx(31 / 14, abs=1e-12)
    assert float(shift) == 0


def test_the_ridge_by_hand():
    # centred: zz = 2, ze = 5; the mean diagonal is 2, so a share of 0.5 adds 1: 5 / 3
    z, y = torch.tensor([1.0, 2, 3]).view(3, 1, 1), torch.tensor([2.0, 4, 7]).view(3, 1, 1)
    assert float(solved(sums(z, y), 0.5)[0]) == pytest.approx(5 / 3, abs=1e-12)


@pytest.mark.parametrize("shifts", [True, False])
def test_numpy_agrees(shifts):
    z, e = rows()
    change, shift = solved(sums(z, e), 0.0, shifts=shifts)
    design = np.concatenate([z[:, 0].numpy(), np.ones((40, int(shifts)))], axis=1)
    expected = np.linalg.lstsq(design, e[:, 0].numpy(), rcond=None)[0]
    np.testing.assert_allclose(change[0].numpy(), expected[:3], atol=1e-10)
    np.testing.assert_allclose(shift[0].numpy(), expected[3] if shifts else np.zeros(2), atol=1e-10)


def test_scikit_learn_agrees_for_every_group():
    z, e = rows(g=4, d=5, o=3)
    share = 0.05
    change, shift = solved(sums(z, e), share)
    for group in range(4):
        inputs = z[:, group].numpy()
        centred = inputs - inputs.mean(0)
        ridge = Ridge(alpha=share * (centred**2).sum(0).mean()).fit(inputs, e[:, group].numpy())
        np.testing.assert_allclose(change[group].numpy(), ridge.coef_.T, atol=1e-10)
        np.testing.assert_allclose(shift[group].numpy(), ridge.intercept_, atol=1e-10)


def test_a_ridge_without_bound_leaves_the_weights():
    z, e = rows()
    change, shift = solved(sums(z, e), math.inf)
    assert not change.any()
    torch.testing.assert_close(shift[0], e.mean((0, 1)))
    assert float(solved(sums(z, e), 1e12)[0].abs().max()) < 1e-9


def test_inputs_that_depend_on_one_another():
    z, e = rows(d=2)
    twice = torch.cat([z, z[..., :1]], dim=2)
    change, shift = solved(sums(twice, e), 0.0)
    assert bool(change.isfinite().all())
    narrow = solved(sums(z, e), 0.0)
    torch.testing.assert_close(sums(twice, e).error(change, shift), sums(z, e).error(*narrow))


def test_inputs_that_are_zero_learn_nothing():
    change, _ = solved(sums(torch.zeros(8, 1, 3), torch.ones(8, 1, 2)), 1e-3)
    assert not change.any()


def test_the_error_is_that_of_the_rows():
    z, e = rows(g=2)
    found = sums(z, e)
    change, shift = torch.randn(2, 3, 2).double(), torch.randn(2, 2).double()
    direct = (e - torch.einsum("rgd,gdo->rgo", z, change) - shift).square().sum()
    assert found.error(change, shift) == pytest.approx(float(direct), rel=1e-12)
    assert found.error(0 * change, 0 * shift) == pytest.approx(found.ee)


def test_the_spread_is_that_of_the_targets():
    z, e = rows()
    y = 3 + rows(seed=1)[1]
    assert sums(z, e, y).spread == pytest.approx(float((y - y.mean(0)).square().sum()))


def test_the_training_error_never_rises():
    for share in (0.0, 1e-3, 1e-1, 10.0, math.inf):
        z, e = rows()
        found = sums(z, e)
        assert found.error(*solved(found, share)) <= found.ee


def test_what_is_worse_elsewhere_is_not_taken():
    z, e = rows(r=6, d=5)
    train, judge = sums(z, e), sums(rows(seed=1)[0][:, :, :1].expand(-1, -1, 5), torch.zeros(40, 1, 2))
    assert best(train, judge, (1e-3, 1.0, math.inf), shifts=True) is None


def test_the_ridge_is_the_one_that_is_best_elsewhere():
    # four unknowns from five noisy rows: judged on many others, a strong ridge wins
    truth = torch.tensor([1.0, -1, 0.5, 0]).double().view(1, 4, 1)

    def made(count, seed):
        z, e = rows(r=count, d=4, o=1, seed=seed)
        return sums(z, torch.einsum("rgd,gdo->rgo", z, truth) + 2 * e)

    train, judge = made(6, 3), made(500, 4)
    shares = (1e-6, 1e-2, 1.0, 10.0)
    errors = [judge.error(*solved(train, share)) for share in shares]
    found = best(train, judge, shares, shifts=True)
    assert found is not None and found[2] == shares[errors.index(min(errors))] != shares[0]
