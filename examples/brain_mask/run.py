"""A pretrained 3D network that finds the brain in an MRI volume, searched over width, depth and resolution.

    pip install nibabel
    pip install --no-deps --target data deepbet==1.0.2 nilearn==0.14.1
    apt-get download mricron-data && dpkg-deb -x mricron-data_*.deb data
    python examples/brain_mask/run.py --data data --out runs/brain

The teacher is the full network at 256^3: the error is one minus the Dice overlap with its masks. Killed, the same
command goes on. `--tiny` takes a drawn head, a network with random weights and a minute of everything.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from data import BOX_NETWORK, HEADS, NETWORK, Head, brain_of, copies, dice, judged, read
from network import LinkNet3d, pretrained
from results import chart, compared, table
from safetensors.torch import load_file, save_file
from task import BrainMask
from torch import Tensor, nn

import secateur as sc
from secateur.evaluators import Latency
from secateur.pruners import METHODS, Examples, Request

TABLE = (256, 192, 160, 128, 96, 64)  # sides of the unpruned network
FULL = {
    "sides": (128, 96, 64),
    "teacher_side": 256,
    "copies": {"train": 16, "validation": 4, "test": 6, "other": 6},
    "epochs": (1, 4),
    "trials": 24,
    "budget": {"latency_ms": "50%", "peak_bytes": "50%"},
}
TINY = {
    "sides": (96, 64),
    "teacher_side": 96,
    "copies": {"train": 2, "validation": 1, "test": 2, "other": 2},
    "epochs": (1, 1),
    "trials": 3,
    "budget": {"peak_bytes": "50%"},  # 48 networks are timed before the first trial where time is limited
}


class Bright(nn.Module):
    """What stands in for both networks with `--tiny`: what is bright is brain."""

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 2, ...)` scores."""
        return torch.cat([0.6 - x, x - 0.6], 1)


def drawn(seed: int) -> Tensor:
    """A ball with a shell around it."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, 48),) * 3, indexing="ij")
    radius = sum(axis**2 for axis in axes) ** 0.5
    noise = torch.rand(radius.shape, generator=torch.Generator().manual_seed(seed))
    return 200.0 * (radius < 0.6) + 60.0 * ((radius > 0.7) & (radius < 0.85)) + 20 * noise


def found(data: Path | None) -> tuple[dict[str, Head], LinkNet3d, nn.Module]:
    """The heads, the network that is searched, and its teacher; drawn ones without data."""
    if data is None:
        torch.manual_seed(0)
        return {name: Head(drawn(seed), Bright()) for seed, name in enumerate(HEADS)}, LinkNet3d().eval(), Bright()
    model, boxes = pretrained(data / NETWORK), pretrained(data / BOX_NETWORK)
    return {name: Head(read(data / file), boxes) for name, file in HEADS.items()}, model, model


def unpruned(head: Head, model: nn.Module, sides: tuple[int, ...]) -> list[tuple[int, float, Tensor]]:
    """Side, seconds, and mask in the volume, of the head as it is."""
    rows = []
    for side in sides:
        x, start = head.at(side), time.perf_counter()
        mask = brain_of(model, x)
        rows.append((side, time.perf_counter() - start, head.put_back(mask)))
    return rows


def splits(file: Path, heads: list[Head], mask: Tensor, teacher: nn.Module, size: dict, seed: int) -> dict:
    """Copies with masks: training ones of the first head, others of it, and of the second; kept in a file."""
    if not file.exists():
        kept, side = {}, size["sides"][0]
        for place, (name, count) in enumerate(size["copies"].items()):
            seeds = range(10_000 * seed + 1_000 * place, 10_000 * seed + 1_000 * place + count)
            if name == "train":
                images, masks = copies(heads[0], seeds, side, mask=mask)
            else:
                head = heads[name == "other"]
                images, masks = judged(head, seeds, side, teacher=teacher, at=size["teacher_side"])
            kept |= {f"{name}.images": images, f"{name}.masks": masks}
        save_file(kept, file)
    kept = load_file(file)
    return {name: (kept[f"{name}.images"], kept[f"{name}.masks"]) for name in size["copies"]}


def ranking(model: nn.Module, space: sc.Space, task: BrainMask) -> sc.Scores:
    """How much each unit matters to the loss at the middle side, by Taylor's criterion."""
    middle = space.resolutions[len(space.resolutions) // 2]
    examples = Examples(batches=task.loader("train", middle, None), loss=task.loss, forward=task.forward)
    limits = {"macs": float(space.costs([space.full])["macs"].iloc[0])}
    scores = METHODS["taylor"]().propose(Request(model, space, limits, examples=examples, seed=0)).scores
    assert scores is not None
    return scores


def searched(path: Path, model: LinkNet3d, task: BrainMask, size: dict, trials: int, seed: int) -> sc.Study:
    """The study, run to its last trial."""
    if path.exists():
        study = sc.Study.open(path, model=model, task=task)
    else:
        example = torch.rand(1, 1, *(size["sides"][0],) * 3)
        space = sc.Space.trace(model, example, resolutions=size["sides"], divisor=2)
        print(space)
        short, long = size["epochs"]
        study = sc.Study.create(
            path,
            model=model,
            task=task,
            space=space,
            budget=sc.Budget(**size["budget"]),
            training=sc.Training(
                optimizer="adamw", lr=5e-3, clip=1.0, distillation=0.0, short_epochs=short, long_epochs=long
            ),
            latency=Latency(repeats=6, warmup=1),
            search=sc.Search(
                objectives=("error", "peak_bytes"),
                scores=ranking(model, space, task),
                seeds=("full", "compound", "magnitude"),
                seed=seed,
                threads=1,
            ),
        )
    study.run(trials=trials)
    return study


def main(arguments: list[str] | None = None) -> None:
    """Search, export the front, and compare it with the unpruned network at every side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where the packages lie")
    parser.add_argument("--out", type=Path, required=True, help="where everything is written")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--pictures", type=Path, help="where the report's charts are drawn; it is OUT/report.html")
    asked = parser.parse_args(arguments)
    if asked.data is None and not asked.tiny:
        parser.error("--data FOLDER is missing; or try --tiny")
    files = [] if asked.data is None else [asked.data / name for name in (NETWORK, BOX_NETWORK, *HEADS.values())]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        parser.error(f"{', '.join(missing)} missing; the help says how to get the packages")
    size = TINY if asked.tiny else FULL
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    heads, model, teacher = found(asked.data)
    sides = size["sides"] if asked.tiny else TABLE
    whole = sc.Space.trace(
        model, torch.rand(1, 1, *(sides[0],) * 3), resolutions=sides, rules={"*": {"least": 1.0, "depth": False}}
    )
    masks = []
    for name, head in heads.items():
        print(f"\nThe unpruned network on {name}, whose mask is the first's\n")
        print("| side | million MACs | peak MB | seconds | Dice |\n| --- | --- | --- | --- | --- |")
        rows = unpruned(head, teacher, sides)
        masks.append(rows[0][2])
        for side, seconds, mask in rows:
            costs = whole.costs([whole.check((whole.resolutions.index((side,) * 3),))]).iloc[0]
            print(f"| {side} | {costs['macs'] / 1e6:,.0f} | {costs['peak_bytes'] / 1e6:.1f} ", end="")
            print(f"| {seconds:.2f} | {dice(mask, masks[-1]):.3f} |", flush=True)
    file = asked.out / f"copies-{asked.seed}.safetensors"
    data = splits(file, list(heads.values()), masks[0], teacher, size, asked.seed)
    other = data.pop("other")
    task = BrainMask(data)
    study = searched(asked.out / "study", model, task, size, asked.trials or size["trials"], asked.seed)
    print(study.front().to_string())
    if not (asked.out / "front").exists():
        study.export(asked.out / "front", pick="all", formats=["safetensors", "pt2"])
    rows = compared(study, asked.out / "front", model, {"test": data["test"], "other": other})
    (asked.out / "results.json").write_text(json.dumps(rows, indent=1))
    print(table(rows))
    print(f"{time.process_time():.0f} s of the processor")
    chart(study.trials(), rows, asked.out / "front.png")
    if asked.pictures is not None:
        study.report(asked.out / "report.html", pictures=asked.pictures)


if __name__ == "__main__":
    main()
