import pytest
import torch

from secateur.evaluators import Augment

SHAPES = [(16, 2, 9), (16, 2, 8, 10), (16, 1, 5, 6, 7)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_move_nothing(shape):
    images, augment = torch.rand(shape, generator=generator()), Augment()
    maps = augment.maps(len(images), len(shape) - 2, generator())
    torch.testing.assert_close(augment.images(images, maps), images, rtol=0, atol=2e-6)
    masks = (images[:, 0] * 5).long()
    assert torch.equal(augment.masks(masks, maps, outside=-100), masks)


@pytest.mark.parametrize("shape", SHAPES)
def test_same_seed_same_images(shape):
    augment = Augment(shift=0.2, rotate=20, scale=0.2, flip=True)
    images = torch.rand(shape, generator=generator())
    first, again, other = (
        augment.images(images, augment.maps(16, len(shape) - 2, generator(seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_mirrors_the_last_axis_of_some(shape):
    augment, images = Augment(flip=True), torch.rand(shape, generator=generator())
    moved = augment.images(images, augment.maps(16, len(shape) - 2, generator()))
    kept = [torch.allclose(a, b, atol=2e-6) for a, b in zip(moved, images, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=2e-6) for a, b in zip(moved, images, strict=True)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True))
    assert any(kept) and any(mirrored)


def test_a_turn_keeps_shapes_round():
    # A quarter turn of a square image is exact; maps of 90 degrees are the extreme draws of rotate=90.
    augment, image = Augment(), torch.rand(1, 1, 6, 6, generator=generator())
    maps = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    torch.testing.assert_close(augment.images(image, maps), image.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_masks_move_with_their_images():
    augment = Augment(shift=0.3, rotate=15, scale=0.1)
    masks = torch.zeros(4, 16, 16, dtype=torch.int64)
    masks[:, 4:12, 4:12] = 1
    maps = augment.maps(4, 2, generator())
    images = augment.images(masks.unsqueeze(1).float(), maps).squeeze(1)
    moved = augment.masks(masks, maps, outside=0)
    sure = (images < 0.2) | (images > 0.8)
    assert torch.equal(moved[sure], (images > 0.5).long()[sure])


def test_what_comes_from_outside_is_marked():
    augment = Augment(shift=0.5)
    moved = augment.masks(torch.zeros(8, 8, 8, dtype=torch.int64), augment.maps(8, 2, generator()), outside=-100)
    assert set(moved.unique().tolist()) == {-100, 0}


@pytest.mark.parametrize("wrong", [{"shift": -0.1}, {"shift": 2}, {"rotate": 200}, {"scale": 1}, {"padding": "wrap"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augment(**wrong)
