"""Prints the networks that the plain loop and Lightning's find from the same weights and the same batches, in order."""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / "training_loop"), str(EXAMPLES / "timm_model")]

from by_name import importable  # noqa: E402

if sys.argv[1] == "beside-torchvision":
    importable()

import plain  # noqa: E402
import with_lightning  # noqa: E402
from run import Net  # noqa: E402

import secateur as sc  # noqa: E402
from secateur.pruners import METHODS, Request  # noqa: E402

torch.manual_seed(0)
model = Net(widths=(4, 8, 8)).eval()
space = sc.Space.trace(model, torch.rand(1, 1, 12, 12), divisor=1)
images, labels = torch.rand(64, 1, 12, 12), torch.arange(64) % 10
loader = DataLoader(TensorDataset(images, labels), batch_size=8)
for module in (plain, with_lightning):
    phase = METHODS["resrep"]().start(
        Request(model, space, {"macs": 0.4 * float(space.costs([space.full])["macs"].iloc[0])})
    )
    module.fit(phase.model, loader, 4, 0.05, phase)
    found = phase.proposal()
    print(list(found.candidate), [round(float(value), 5) for value in found.weights["head.bias"]])
