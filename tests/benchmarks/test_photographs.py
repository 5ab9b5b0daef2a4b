"""Photographs of packages, and what is computed of agreements and ranks."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

photographs = pytest.importorskip("photographs")


def written(image):
    held = io.BytesIO()
    image.save(held, "WEBP", lossless=True)
    return held.getvalue()


def noise(seed, size=(140, 120)):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


def test_pictures_in_a_resource_file_are_found_and_those_that_are_alike_once(tmp_path):
    first, second, small = noise(0), noise(1), noise(2, (60, 200))
    parts = [b"qres\0\0", written(first), b"RIFF\x10\0\0\0WEBPbroken", written(second), written(first), written(small)]
    for name in photographs.FILES:
        (tmp_path / f"{name}.rcc").write_bytes(b"".join(parts) if name == photographs.FILES[0] else b"qres")
    found = photographs.photographs(tmp_path)
    assert len(found) == 2 and len({name for name, _ in found}) == 2
    for (_, image), own in zip(found, (first, second), strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(own))


def test_a_crop_is_the_middle_or_drawn():
    ramp = Image.fromarray(np.tile(np.arange(128, dtype=np.uint8)[None, :, None], (128, 1, 3)))
    middle = photographs.crop(ramp, 32)
    assert middle.shape == (3, 32, 32) and float(middle.float().mean()) == pytest.approx(63.5, abs=1)
    rises = {bool(one[0, 0, -1] > one[0, 0, 0]) for one in (photographs.crop(ramp, 32, seed) for seed in range(20))}
    assert rises == {True, False}
    assert torch.equal(photographs.crop(ramp, 32, 3), photographs.crop(ramp, 32, 3))


def test_agreement_of_classes_and_of_masks():
    real = pytest.importorskip("real_networks")
    classes = torch.tensor([[1, 2], [3, 3]])
    assert real.agreement(classes, torch.tensor([[1, 2], [3, 4]])).tolist() == [1.0, 0.5]
    masks = torch.zeros(1, 1, 2, 2, 2, dtype=torch.long)
    masks[0, 0, 0] = 1  # four voxels of eight, two of which the other has
    other = masks.clone()
    other[0, 0, 0, 0] = 0
    assert real.agreement(other, masks).tolist() == [pytest.approx(2 * 2 / 6)]
    mean, low, high = real.interval(np.array([0.0, 1.0] * 50))
    assert mean == 0.5 and 0.38 < low < 0.42 and 0.58 < high < 0.62


def test_ranks():
    ranking = pytest.importorskip("ranking")
    truth = np.arange(30.0)
    good, bad = truth + np.tile([0.0, 1.5], 15), truth[::-1].copy()
    value, half = ranking.interval(good, truth)
    assert 0.9 < value < 1 and 0 < half < 0.1
    assert ranking.gain(good, bad, truth) == 1.0
