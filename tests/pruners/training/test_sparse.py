import copy
import io

import networks
import pytest
import tasks
import torch
from torch import nn

from secateur.evaluators import Training, train
from secateur.pruners.training.schedules import cosine, cubic
from secateur.pruners.training.sparse import SparseMasks, erdos_renyi, largest, regenerate

FIRST, SECOND = torch.tensor([0.9, -0.1, 0.4, 0.05, -0.7, 0.2]), torch.tensor([0.3, -0.8, 0.02, 0.6])


def test_the_cubic_by_hand():
    # 0.9 - 0.9 (1 - j/10)^3 and 0.9 - 0.4 (1 - j/10)^3
    dense = [0, 0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]
    sparse = [0.5, 0.6084, 0.6952, 0.7628, 0.8136, 0.85, 0.8744, 0.8892, 0.8968, 0.8996, 0.9]
    assert [cubic(0, 0.9, j / 10) for j in range(11)] == pytest.approx(dense, abs=5e-5)
    assert [cubic(0.5, 0.9, j / 10) for j in range(11)] == pytest.approx(sparse, abs=5e-5)
    assert [cosine(0.5, 0.005, p) for p in (0, 0.5, 1)] == pytest.approx([0.5, 0.2525, 0.005])


def test_global_magnitudes_by_hand():
    # 10 weights, s = 0.4: the 6 largest are 0.9 0.8 0.7 0.6 0.4 0.3; strictly above 0.3 are five
    strict = largest([FIRST, SECOND], 0.4, strict=True)
    assert [mask.int().tolist() for mask in strict] == [[1, 0, 1, 0, 1, 0], [0, 1, 0, 1]]
    exact = largest([FIRST, SECOND], 0.4)
    assert [mask.int().tolist() for mask in exact] == [[1, 0, 1, 0, 1, 0], [1, 1, 0, 1]]
    ties = largest([torch.ones(10)], 0.7)
    assert ties[0].int().tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_regeneration_by_hand():
    # layer 1: ceil(0.5 * 3) = 2 go, 0.4 and 0.7; gradients 0.9 and 0.5 come. Layer 2: 0.6 goes, gradient 0.7 comes
    masks = largest([FIRST, SECOND], 0.4, strict=True)
    gradients = [torch.tensor([0.01, 0.5, 0.02, 0.9, 0.03, 0.1]), torch.tensor([0.7, 0, 0.6, 0.01])]
    found = [regenerate(w, m, g, 0.5) for w, m, g in zip((FIRST, SECOND), masks, gradients, strict=True)]
    assert [mask.nonzero().flatten().tolist() for mask in found] == [[0, 1, 3], [0, 1]]
    assert torch.equal(regenerate(FIRST, masks[0], gradients[0], 0.0), masks[0])


def test_densities_of_erdos_renyi():
    # (sum / product) of (8, 4) and (32, 16): 12/32, 48/512; half of 544 weights: eps * (12 + 48) = 272, eps = 4.53:
    # the first would be 1.7 dense, so it is whole; eps * 48 = 272 - 32 = 240: the second is 240 / 512
    assert erdos_renyi([(8, 4), (32, 16)], 0.5) == pytest.approx([1.0, 240 / 512])
    shapes = [(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (10, 64)]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    for density in (0.05, 0.3, 0.9, 1.0):
        found = erdos_renyi(shapes, density)
        assert all(0 <= one <= 1 for one in found)
        assert sum(d * n for d, n in zip(found, sizes, strict=True)) == pytest.approx(density * sum(sizes))


class Watch:
    """Active weights a layer, sparsity, and what is not zero though it is masked, after every step."""

    def __init__(self, masks):
        self.masks, self.counts, self.sparsities = masks, [], []

    def after_step(self, loop):
        self.counts.append({name: int(mask.sum()) for name, mask in self.masks.masks.items()})
        self.sparsities.append(self.masks.sparsity)
        for name, weight in loop.model.named_parameters():
            if name in self.masks.masks:
                gone = ~self.masks.masks[name]
                assert not weight.detach()[gone].any()
                for moment in loop.optimizer.state[weight].values():
                    assert moment.ndim == 0 or not moment[gone].any()


def trained(epochs=5, state=None, callbacks=(), **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = networks.Plain(8, 3)
    masks = SparseMasks(model, **settings)
    watch = Watch(masks)
    train(model, tasks.classification(), Training(), epochs=epochs, callbacks=[masks, watch, *callbacks], state=state)
    return model, masks, watch


def test_masks_follow_the_cubic_and_end_exactly():
    model, masks, watch = trained(final=0.9, every=3)  # 30 steps, the last pruning at 15
    total = sum(mask.numel() for mask in masks.masks.values())
    for step, sparsity in enumerate(watch.sparsities, start=1):
        last = min(15, step // 3 * 3)
        assert sparsity == pytest.approx(cubic(0, 0.9, last / 15), abs=1.1 / total)
    assert set(masks.masks) == {"conv1.weight", "conv2.weight", "fc.weight"}
    with torch.no_grad():
        assert all((p == 0).sum() >= (~masks.masks[n]).sum() for n, p in model.named_parameters() if n in masks.masks)


def test_regeneration_keeps_every_layers_count():
    _, masks, watch = trained(final=0.8, initial=0.8, every=2, until=0.1)
    assert all(count == watch.counts[5] for count in watch.counts[5:])  # dynamic sparse training: only places change
    first = SparseMasks(networks.Plain(8, 3), final=0.8, initial=0.8)
    first.prepare(type("Loop", (), {"optimizer": torch.optim.SGD([torch.zeros(1)], lr=1)}))
    assert first.sparsity == pytest.approx(0.8, abs=0.03)  # random: right on average
    assert any(not torch.equal(mask, masks.masks[name]) for name, mask in first.masks.items())


def test_without_regeneration_it_is_gradual_magnitude_pruning():
    class Nested:
        def after_step(self, loop):
            now = {name: mask.clone() for name, mask in self.masks.masks.items()}
            assert all(not (now[name] & ~before).any() for name, before in getattr(self, "before", {}).items())
            self.before = now

    nested = Nested()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = networks.Plain(8, 3)
    nested.masks = SparseMasks(model, final=0.9, ratio=0.0, every=2)
    train(model, tasks.classification(), Training(), epochs=3, callbacks=[nested.masks, nested])
    assert nested.masks.sparsity == pytest.approx(0.9, abs=0.001)


def test_it_goes_on_from_a_saved_state():
    class Keep:
        def after_epoch(self, loop):
            buffer = io.BytesIO()
            torch.save(loop.state(), buffer)
            states.append(buffer.getvalue())

    states = []
    whole, masks, _ = trained(epochs=4, final=0.8, initial=0.3, callbacks=[Keep()])
    for saved in list(states):
        again, others, _ = trained(
            epochs=4, final=0.8, initial=0.3, state=torch.load(io.BytesIO(saved), weights_only=True)
        )
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
        assert all(torch.equal(mask, others.masks[name]) for name, mask in masks.masks.items())


@pytest.mark.parametrize(
    "given", [{"final": 1.0}, {"initial": 0.95}, {"ratio": -0.1}, {"until": 0.0}, {"every": 0}, {"last_ratio": 1}]
)
def test_wrong_settings_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        SparseMasks(networks.Plain(), **given)


def test_nothing_to_mask_is_refused():
    with pytest.raises(ValueError, match="nothing to make sparse"):
        SparseMasks(nn.BatchNorm1d(3))
    assert copy.deepcopy(SparseMasks(nn.Linear(2, 2))).masks == {}
