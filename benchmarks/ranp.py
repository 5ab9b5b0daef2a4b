"""RANP on a 3D U-Net and real volumes: what each variant keeps of the costs and of the accuracy, at one sparsity.

    pip download --no-deps nilearn==0.14.1 -d build/ranp
    python benchmarks/ranp.py [--seeds 3] [--kappa 0.7] [--steps 250]

The volumes are the averages of 152 brains (T1, grey and white matter) in that package. The task is to tell grey matter,
white matter and the rest in patches of 24^3 mm; training patches come from the front half of the head, test patches
from the back half. (Not left and right: this template is symmetric, each half is the mirror image of the other.) As in
Xu 2020 (arXiv 2010.02488), mask gradients are taken before any training, one patch at a time, and every network is
trained from new weights. Cells are kept in build/ranp, so that a killed run goes on. One core, about 15 minutes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from conventions import count_as_ranp
from networks3d import unet3d
from torch import nn

from secateur.pruners import METHODS, Examples, Request
from secateur.pruners.one_shot.fresh import fresh
from secateur.pruners.one_shot.neurons import kept_by, threshold
from secateur.spaces import Candidate, Space, build

FOLDER = Path(__file__).parents[1] / "build" / "ranp"
SIDE, CLASSES, BASE, BATCH, MASKS = 24, 3, 8, 4, 24
NAMES = {
    "full": "Full",
    "random": "Random NP",
    "layer-wise": "Layer-wise NP",
    "ranp": "Vanilla NP",
    "ranp-w": "Weighted NP",
    "ranp-m": "RANP-m",
    "ranp-f": "RANP-f",
}


# --- the volumes ------------------------------------------------------------------------------------------------------


def volumes() -> tuple[torch.Tensor, torch.Tensor]:
    """`(x, y, z)` intensities in [0, 1], and labels: 0 the rest, 1 grey matter, 2 white matter."""
    wheels = sorted(FOLDER.glob("nilearn-*.whl"))
    if not wheels:
        raise SystemExit("no volumes; get them at the root with: pip download --no-deps nilearn==0.14.1 -d build/ranp")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        t1, grey, white = (
            nifti(wheel.read(f"nilearn/datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"))
            for kind in ("t1", "gm", "wm")
        )
    rest = 255 - grey - white
    labels = np.argmax(np.stack([rest, grey, white]), axis=0)
    return torch.from_numpy(t1 / 255).float(), torch.from_numpy(labels)


def nifti(packed: bytes) -> np.ndarray:
    """The voxels of a NIfTI-1 file of unsigned bytes, as float32 in `(x, y, z)` order."""
    raw = gzip.decompress(packed)
    axes, *shape = struct.unpack_from("<8h", raw, 40)
    (kind,), (offset,) = struct.unpack_from("<h", raw, 70), struct.unpack_from("<f", raw, 108)
    if kind != 2:
        raise SystemExit(f"NIfTI data type {kind}; expected 2, unsigned bytes")
    shape = shape[:axes]
    flat = np.frombuffer(raw, np.uint8, math.prod(shape), int(offset))
    return flat.reshape(shape, order="F").astype(np.float32)


def patches(
    image: torch.Tensor, labels: torch.Tensor, y: tuple[int, int], count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(count, 1, side^3)` patches within this range of y and their labels; a third of each is brain at least."""
    generator = torch.Generator().manual_seed(seed)
    inputs: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    low = torch.tensor([0, y[0], 0])
    room = torch.tensor([image.shape[0], y[1], image.shape[2]]) - low - SIDE
    while len(inputs) < count:
        corner = low + (torch.rand(3, generator=generator) * (room + 1)).long()
        cut = tuple(slice(int(c), int(c) + SIDE) for c in corner)
        if float((labels[cut] > 0).float().mean()) > 1 / 3:
            inputs.append(image[cut][None])
            targets.append(labels[cut])
    return torch.stack(inputs), torch.stack(targets)


# --- networks ---------------------------------------------------------------------------------------------------------


def network(seed: int) -> nn.Module:
    model = unet3d(1, CLASSES, base=BASE)
    fresh(model, seed)
    return model.eval()


def widths(
    method: str, model: nn.Module, space: Space, examples: Examples, kappa: float, strength: float, seed: int
) -> tuple[Candidate, dict]:
    """How wide each layer becomes, and what the method says of it; the last layer keeps all."""
    if method == "full":
        return space.full, {}
    if method == "layer-wise":
        return space.check([math.ceil(group.units * (1 - kappa) - 1e-9) for group in space.groups]), {}
    if method == "random":
        random = np.random.default_rng(seed)
        s = [random.random(group.units) for group in space.groups] + [random.random(CLASSES)]
        theta = threshold(s, kept_by(kappa, sum(map(len, s))))
        return space.check([max(1, int((layer >= theta).sum())) for layer in s[:-1]]), {}
    settings = {} if method in ("ranp", "ranp-w") else {"strength": strength}
    proposal = METHODS[method](kappa=kappa, weights="fresh", least=1, **settings).propose(
        Request(model, space, {}, examples=examples, seed=seed)
    )
    return proposal.candidate, dict(proposal.notes)


def train(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(model(data[0][chosen]), data[1][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def mean_iou(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Mean over the classes of intersection over union of all test voxels, in per cent."""
    table = torch.zeros(CLASSES, CLASSES)
    for inputs, targets in zip(data[0].split(8), data[1].split(8), strict=True):
        found = model(inputs).argmax(1)
        table += torch.bincount((targets * CLASSES + found).flatten(), minlength=CLASSES**2).view(CLASSES, CLASSES)
    hits = table.diagonal()
    return 100 * float((hits / (table.sum(0) + table.sum(1) - hits)).mean())


# --- the run ----------------------------------------------------------------------------------------------------------


def cell(method: str, seed: int, options: argparse.Namespace, data: list) -> dict:
    settings = f"-{options.kappa:g}-{options.strength:g}" if method != "full" else ""
    file = FOLDER / f"{method}-{seed}-{options.steps}{settings}.json"
    if file.exists():
        return json.loads(file.read_text())
    training, test = data
    model = network(seed)
    example = torch.zeros(1, 1, SIDE, SIDE, SIDE)
    space = Space.trace(model, example, divisor=1)
    singles = [(x[None], y[None]) for x, y in zip(training[0][:MASKS], training[1][:MASKS], strict=True)]
    examples = Examples(batches=singles, loss=nn.functional.cross_entropy)
    candidate, notes = widths(method, model, space, examples, options.kappa, options.strength, seed)
    small = build(model, space, candidate)
    fresh(small, seed)
    costs = count_as_ranp(small, example)
    start = time.perf_counter()
    train(small, training, options.steps, seed)
    found = {
        "widths": list(candidate),
        "neurons": costs.neurons,
        "mflops": 1000 * costs.gflops,
        "memory_mib": costs.memory_mib,
        "params_kib": 1024 * costs.params_mib,
        "seconds": time.perf_counter() - start,
        "miou": mean_iou(small, test),
        **{name: notes[name] for name in ("kappa_max", "one_neuron", "held") if name in notes},
    }
    file.write_text(json.dumps(found))
    return found


def spread(values: list[float], digits: int) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(set(values)) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kappa", type=float, default=0.7, help="share of neurons to go, of all methods")
    parser.add_argument("--strength", type=float, default=11.0, help="lambda of RANP-f and RANP-m")
    parser.add_argument("--steps", type=int, default=250)
    options = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    image, labels = volumes()
    middle = image.shape[1] // 2
    data = [
        patches(image, labels, (middle, image.shape[1]), 200, seed=1),
        patches(image, labels, (0, middle), 100, seed=2),
    ]
    cells = {name: [cell(name, seed, options, data) for seed in range(options.seeds)] for name in NAMES}
    full = cells["full"][0]
    print(f"kappa {options.kappa:g}, lambda {options.strength:g}, {options.steps} steps, {options.seeds} seeds\n")
    print("| | neurons | parameters KiB | MFLOPs | memory MiB | mIoU % | kappa_max | held at 1 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in cells.items():
        flops, memory = (statistics.mean(one[key] for one in found) for key in ("mflops", "memory_mib"))
        print(
            f"| {NAMES[name]} | {spread([one['neurons'] for one in found], 0)} "
            f"| {spread([one['params_kib'] for one in found], 1)} "
            f"| {spread([one['mflops'] for one in found], 2)} ({100 * (flops / full['mflops'] - 1):+.1f} %) "
            f"| {spread([one['memory_mib'] for one in found], 2)} ({100 * (memory / full['memory_mib'] - 1):+.1f} %) "
            f"| {spread([one['miou'] for one in found], 2)} "
            f"| {spread([one['kappa_max'] for one in found], 3) if 'kappa_max' in found[0] else '-'} "
            f"| {spread([len(one.get('held', [])) for one in found], 1) if 'kappa_max' in found[0] else '-'} |"
        )
    print(f"\n{sum(one['seconds'] for found in cells.values() for one in found):.0f} s of training")


if __name__ == "__main__":
    main()
