"""What an epoch over a `DataLoader` costs beside a plain PyTorch loop: processor seconds and memory.

    python benchmarks/loading.py [--pictures 50000] [--workers 2] [--side 32] [--repeats 3]

Both train the same small network on the same pictures, which are made when they are asked for, from a `DataLoader` with
the same workers, order and augmentation at random; each epoch runs in a process of its own. Processor seconds are those
of the process and its workers, user and system; memory is the largest resident size of the process, beside that of
its largest worker. Medians of the repeats, which take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from secateur import Classification
from secateur.evaluators import Training, train

CLASSES, BATCH = 10, 128


class Pictures(Dataset):
    """Noise with one bright corner, mirrored at random."""

    def __init__(self, count: int, side: int) -> None:
        self.count, self.side = count, side
        self.noise = torch.randint(0, 200, (512, 3, side, side), dtype=torch.uint8)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = self.noise[index % 512].clone()
        label, half = index % CLASSES, self.side // 2
        picture[label % 3, :half, :half] += 5 * label
        return (picture.flip(-1) if torch.rand(()) < 0.5 else picture).float() / 255, label


def network() -> nn.Module:
    layers: list[nn.Module] = []
    for inner, outer in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def plain(loader: DataLoader) -> None:
    model = network().train()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 5e-4},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(loader))
    for images, labels in loader:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()


def ours(loader: DataLoader) -> None:
    held = Pictures(256, loader.dataset.side)
    task = Classification(train=loader, validation=DataLoader(held, batch_size=BATCH), classes=CLASSES)
    train(network(), task, Training(distillation=0.0), epochs=1)


def spent() -> dict[str, float]:
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": sum(one.ru_utime + one.ru_stime for one in found),
        "own_mb": found[0].ru_maxrss / 1024,
        "worker_mb": found[1].ru_maxrss / 1024,
    }


def once(way: str, asked: argparse.Namespace) -> dict[str, float]:
    """An epoch in a process of its own."""
    settings = [f"--{name}={getattr(asked, name)}" for name in ("pictures", "workers", "side")]
    said = subprocess.run(
        [sys.executable, __file__, "--way", way, *settings], capture_output=True, text=True, check=True
    )
    return json.loads(said.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=("plain", "ours"))
    asked = parser.parse_args()
    if asked.way is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        data = Pictures(asked.pictures, asked.side)
        loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=asked.workers)
        before = spent()["seconds"]  # what importing takes is no epoch's
        {"plain": plain, "ours": ours}[asked.way](loader)
        print(json.dumps(spent() | {"seconds": spent()["seconds"] - before}))
        return
    found: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
    for _ in range(asked.repeats):
        for way, rows in found.items():
            rows.append(once(way, asked))
    said = f"{asked.pictures:,} pictures of {asked.side} x {asked.side}, {asked.workers} workers"
    print(f"{said}, one epoch, torch {torch.__version__}")
    print(f"{'':7}{'processor s':>12}{'MB, process':>13}{'MB, worker':>12}")
    medians = {}
    for way, rows in found.items():
        medians[way] = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        print(
            f"{way:7}{medians[way]['seconds']:>12.1f}{medians[way]['own_mb']:>13.0f}{medians[way]['worker_mb']:>12.0f}"
        )
    ratios = {name: medians["ours"][name] / medians["plain"][name] for name in medians["ours"]}
    print(f"{'ratio':7}{ratios['seconds']:>12.3f}{ratios['own_mb']:>13.3f}{ratios['worker_mb']:>12.3f}")


if __name__ == "__main__":
    main()
