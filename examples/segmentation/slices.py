"""Slices of an average head: T1 intensities in; grey matter, white matter and the rest out. `nilearn` brings them."""

import numpy as np
import torch
from nilearn import datasets

import secateur as sc

PERIOD = 20  # millimetres; of each, 10 are for training, 3 for validation and 4 for the test, with gaps between them
PARTS = {"train": range(0, 10), "validation": range(11, 14), "test": range(15, 19)}


def volume():
    """`(z, y, x)` intensities, and labels: 0 the rest, 1 grey matter, 2 white matter; 1 mm a voxel."""
    loads = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    t1, grey, white = (torch.from_numpy(load(resolution=1).get_fdata(dtype=np.float32)) for load in loads)
    labels = torch.stack([1 - grey - white, grey, white]).argmax(0)
    return tuple(values.permute(2, 1, 0)[:, 21:213, 18:178].contiguous() for values in (t1, labels))


def task(batch=8, every=1):
    """The task: slices 192 high and 160 wide, in slabs that take turns; one in `every` of them."""
    images, masks = volume()
    numbers = torch.arange(0, 140)  # from the lower cerebellum to just below the top
    splits = {}
    for name, part in PARTS.items():
        chosen = numbers[torch.isin(numbers % PERIOD, torch.tensor(part))][::every]
        splits[name] = (images[chosen, None], masks[chosen])
    return sc.Segmentation(**splits, batch=batch, classes=3, normalise="measure")
