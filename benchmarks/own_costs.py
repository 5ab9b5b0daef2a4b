"""Searches within costs of one's own: milliseconds of ONNX Runtime on three networks, and a table of a device.

    python benchmarks/own_costs.py [--networks residual depthwise attention]

Each study is held to 60 % of what the full network takes in ONNX Runtime, one thread; the four trials within that and
nearest to it are exported, and every `model.onnx` is timed again in a process of its own, by turns with the full
network's. The table of a device is written by this program: so much a multiply-add of a convolution or a matrix
product, and of an element of anything else; what the networks of its front cost by it is summed again by hand. Nothing
that is trained here matters: the networks see a few hundred drawn pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from landscapes import tiny_task, tiny_training  # noqa: E402

import secateur as sc  # noqa: E402
from secateur.studies.study_files.networks import BasicBlock, resnet20  # noqa: E402

ROOT = Path(__file__).parents[1]
DEVICE = {"convolution": 2e-9, "addmm": 1e-9}  # of a multiply-add, in seconds; any other operator: of an element
ELEMENT = 0.5e-9


def residual() -> nn.Module:
    """A residual network of 14 layers, 32 to 128 channels."""
    return resnet20(classes=4, widths=(32, 64, 128), blocks=(2, 2, 2), stride=1)


class Inverted(nn.Module):
    """Widened four times, a depthwise convolution, and narrow again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.body = nn.Sequential(
            *(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def depthwise() -> nn.Module:
    """Six inverted residual blocks of 48 channels."""
    stem = (nn.Conv2d(1, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU6())
    blocks = (Inverted(48) for _ in range(6))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4))


class Attention(nn.Module):
    """Sixteen patches, four transformer layers of 96 features and 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 96, 3, stride=3)
        self.place = nn.Parameter(0.02 * torch.randn(1, 16, 96))
        layer = nn.TransformerEncoderLayer(96, 4, 384, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(96, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.layers(x).mean(1))


NETWORKS = {"residual": residual, "depthwise": depthwise, "attention": Attention}
TIMING = """
import json, statistics, sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in sys.argv[1:]]
given = [{s.get_inputs()[0].name: numpy.zeros([1, *s.get_inputs()[0].shape[1:]], numpy.float32)} for s in sessions]
times = [[] for _ in sessions]
for turn in range(60):
    for session, inputs, found in zip(sessions, given, times):
        for call in range(4):
            start = time.perf_counter()
            session.run(None, inputs)
            found += [1000 * (time.perf_counter() - start)] * (call > 0 and turn > 4)
print(json.dumps([statistics.median(found) for found in times]))
"""


def created(folder: Path, make, cost: sc.Cost) -> sc.Study:
    torch.manual_seed(0)
    model = make().eval()
    space = sc.Space.trace(model, torch.zeros(1, 1, 12, 12), divisor=4)
    return sc.Study.create(
        folder / "study",
        model=model,
        task=tiny_task(images=256),
        space=space,
        budget=sc.Budget(**{cost.name: "60%"}),
        training=tiny_training(),
        search=sc.Search(objectives=("error", cost.name), costs=[cost], sampler="auto", threads=1),
        expect_error="untrained",
    )


def nearest(study: sc.Study, folder: Path) -> list[Path]:
    """Exports of the four trials within the limit that are nearest to it."""
    trials = study.trials()
    fit = trials[trials.within & trials.evaluated].sort_values("ort_ms").tail(4)
    options = {"finetune_epochs": 0, "formats": ["safetensors", "onnx"], "progress": None}
    return [study.export(folder / f"{number}", pick=int(number), **options)[0] for number in fit.trial]


def in_onnxruntime(name: str, trials: int) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as place:
        folder, start = Path(place), time.process_time()
        study = created(folder, NETWORKS[name], sc.Cost("ort_ms", measure=sc.onnxruntime_ms(threads=1)))
        study.run(trials, progress=None)
        seconds = time.process_time() - start
        sc.save(folder / "full", study.model, model=study.model, space=study.space, candidate=study.space.full)
        paths = [str(path / "model.onnx") for path in (folder / "full", *nearest(study, folder))]
        timed = subprocess.run([sys.executable, "-c", TIMING, *paths], capture_output=True, text=True, check=True)
        whole, *again = json.loads(timed.stdout)
        limit, table = study.limits()["ort_ms"], study.trials()
        over = int((table.ort_ms[table.source != "seed:full"] > limit).sum())
        shares = [f"{ms / whole:.2f}" for ms in again]
        foretold = study.status().foretold.get("ort_ms", {})
    met = sum(ms <= limit for ms in again)
    return (
        f"| {name} | {whole:.3f} | {limit:.3f} | {len(table)} | {over} | {met} of {len(again)} | {', '.join(shares)} "
        f"| {foretold.get('error', float('nan')):.1%} | {seconds:.0f} |"
    )


def by_a_table(trials: int) -> str:
    """A sentence on a search by a table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        others = ("_native_batch_norm_legit_no_training", "native_batch_norm", "relu", "add", "mean", "max_pool2d")
        rows = [f"{name},1,{1000 * cost}" for name, cost in DEVICE.items()]
        rows += [f"{name},1,{1000 * ELEMENT}" for name in others]
        (folder / "device.csv").write_text("operator,size,cost\n" + "\n".join(rows) + "\n")
        study = created(folder, residual, sc.Cost("device_ms", measure=sc.costs.table(folder / "device.csv")))
        study.run(trials, progress=None)
        limit, table, front = study.limits()["device_ms"], study.trials(), study.front()
        hand = []
        for number in front.trial:
            trial = next(one for one in study._engine.ledger.trials if one.number == number)
            hand.append(by_hand(sc.build(study.model, study.space, trial.candidate)))
    off = max(abs(one / said - 1) for one, said in zip(hand, front.device_ms, strict=True))
    return (
        f"By a table of a device, held to 60 %, {limit:.4f} ms: {len(table)} trials, {len(front)} on the front; "
        f"summed by hand again their costs differ by {off:.1e} at most."
    )


def by_hand(network: nn.Module) -> float:
    """Milliseconds of a residual network by the table, from the shapes that its modules see."""
    total = 0.0

    def add(module: nn.Module, inputs: tuple, out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            each = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            total += DEVICE["convolution"] * out.numel() * each
        elif isinstance(module, nn.Linear):
            total += DEVICE["addmm"] * out.numel() * module.in_features + ELEMENT * module.in_features  # of the mean
        elif isinstance(module, BasicBlock):  # a ReLU behind its first norm, the sum, and one behind that
            total += ELEMENT * (module.conv1.out_channels / out.shape[1] + 2) * out.numel()
        elif isinstance(module, nn.BatchNorm2d | nn.ReLU):
            total += ELEMENT * out.numel()

    for module in network.modules():
        module.register_forward_hook(add)
    network.eval()(torch.zeros(1, 1, 12, 12))
    return 1000 * total


def commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return said.stdout.strip() or "unknown"


def main() -> None:
    now = commit()  # of what is imported
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--trials", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    heads = (
        "network, full ms, limit, trials, over it, exported that meet it again, shares of the full, forecasts off by"
    )
    lines = [f"| {' | '.join(f'{heads}, processor s'.split(', '))} |", "|---" * 9 + "|"]
    for name in asked.networks:
        lines.append(in_onnxruntime(name, asked.trials))
        print(lines[-1], flush=True)
    lines += ["", by_a_table(asked.trials), "", f"Commit {now}, one thread."]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
