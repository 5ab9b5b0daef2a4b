"""A search without training: MobileNetV2 on photographs without labels, beside methods that make one network each.

    python benchmarks/photo_search.py --weights FILE --gcompris FOLDER --stamps FOLDER [--trials 60]
    python benchmarks/photo_search.py --page

Weights and photographs are those of benchmarks/real_networks.py; see there. What a picture is said to be is what the
full network says of it at the largest side. Trials are solved on two thirds of the pictures to solve on and judged on
the others (`fidelity="reconstructed"`); every axis is a width but one, the side of the pictures. For each share of the
multiply-adds the best network within it, by the expected error, is made by an export that trains nothing; the single
methods make theirs by `secateur.prune` on all the pictures to solve on, at the largest side and, L2, at the side that
the search chose. All are held against the full network on photographs and cut-outs that nothing else sees. Everything
is kept in build/photo_search: what was killed goes on. `--page` writes docs/photo_search.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from fashion import commit
from photographs import Judges, pictures
from real_networks import agreement, interval, outputs

from secateur import Budget, Classification, Search, Space, Study, Training, load, prune

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples" / "photo_mobilenet"))
KEPT, PAGE = ROOT / "build" / "photo_search", ROOT / "docs" / "photo_search.md"
SIDES, METHODS = (160, 144, 128), ("uniform", "l2", "osscar", "wanda")
SEARCHES = {0.8: (0.8, 0.65), 0.5: (0.5,)}  # by budget, the shares of the multiply-adds that its front is asked for
SHARES = tuple(share for shares in SEARCHES.values() for share in shares)
MOST = 0.9  # disagreement of what counts in the tighter search; by default only what is halfway to guessing does
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def everything(asked):
    """The network, scaled pictures to solve on and to judge by, and what the full network says of the former."""
    import network

    torch.set_num_threads(2)
    model = network.mobilenet(Path(asked.weights)).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    solve, judges = pictures(gcompris=asked.gcompris, stamps=asked.stamps, side=SIDES[0])
    judges = [Judges((one.images / 255 - mean) / std, one.name) for one in judges]
    solve = (solve / 255 - mean) / std
    return model, solve, outputs(model, solve[:, None])[:, 0], judges


def judged(model, small, side, judges):
    """The agreement with the full network at the largest side, with its interval, of every kind of picture."""
    side = None if side == SIDES[0] else (side, side)
    return {
        one.name: interval(agreement(outputs(small, one.images, side), outputs(model, one.images))) for one in judges
    }


def searched(asked, budget, model, solve, labels, judges):
    """Search within a budget, or go on; then one network for each share."""
    third, folder = len(solve) // 3, KEPT / f"study-{budget}"
    space = Space.trace(model, solve[:1], rules={"*": {"depth": False}}, resolutions=SIDES, divisor=8)
    parts = {"validation": (solve[:third], labels[:third]), "train": (solve[third:], labels[third:])}
    task = Classification(**parts, test=parts["validation"], classes=1000, batch=64)
    if folder.exists():
        study = Study.open(folder, model=model, task=task)
    else:
        study = Study.create(
            folder,
            model=model,
            task=task,
            space=space,
            budget=Budget(macs=budget),
            search=Search(
                fidelity="reconstructed",
                seeds=["compound", "l2", "osscar", "uniform"],
                max_error=MOST if budget < SHARES[0] else None,
            ),
            training=Training(recalibration_images=len(solve) - third),
        )
    started = time.perf_counter()
    study.run(trials=asked.trials)
    seconds = study.trials()["seconds"].sum()
    print(f"{asked.trials} trials: {seconds:.0f} s of trials, {time.perf_counter() - started:.0f} s now", flush=True)
    for share in SEARCHES[budget]:
        path = KEPT / f"search-{share}.json"
        if path.exists():
            continue
        to = KEPT / f"out-{share}"
        (place,) = study.export(to, pick=Budget(macs=share), finetune_epochs=0, formats=("safetensors",))
        small, record = load(place, model=model), json.loads((place / "config.json").read_text())
        side = record["resolution"] if isinstance(record["resolution"], int) else record["resolution"][0]
        found = {"side": side, "share": record["costs"]["macs"] / record["full_costs"]["macs"]}
        found |= {"agreement": judged(model, small.eval(), side, judges), "seconds": float(seconds), "commit": commit()}
        path.write_text(json.dumps(found))
        print(f"search at {share}: {found}", flush=True)


def single(method, share, asked, model, solve, judges):
    """One network of one method, at the largest side or, as `METHOD@SIDE`, at another."""
    path = KEPT / f"{method}-{share}.json"
    if path.exists():
        return
    name, _, side = method.partition("@")
    side = int(side or SIDES[0])
    started = time.perf_counter()
    space = Space.trace(model, solve[:1], rules={"*": {"depth": False}}, resolutions=SIDES, divisor=8)
    given = {"resolution": side} if side != SIDES[0] else {}
    made = prune(model, solve, budget=Budget(macs=share), space=space, method=name, most=len(solve), **given)
    found = {"side": side, "share": made.costs["macs"] / made.full_costs["macs"]}
    found |= {"agreement": judged(model, made.network, side, judges), "seconds": time.perf_counter() - started}
    path.write_text(json.dumps(found | {"commit": commit()}))
    print(f"{method} at {share}: {found}", flush=True)


INTRODUCTION = """# A search without training, on photographs

torchvision's MobileNetV2 with its pretrained weights, photographs without labels, two cores: two searches of {trials}
trials at `fidelity="reconstructed"` over every layer's width and the side of the pictures ({sides}), one within 0.8 and
one within 0.5 of the multiply-adds at side {largest}, begun from `compound`, `l2`, `osscar` and `uniform` at several
costs and sides. What a picture is said to be is what the full network says of it at side {largest}. Trials are solved
on two thirds of the pictures to solve on and judged on the others, each in {each} s (median); a search took {minutes}
minutes of trials, of a machine that did other things meanwhile.

For each share of the multiply-adds the best network within it, by the expected error, exported without any training
(0.65 is asked of the front of the search within 0.8), beside what single methods make by `secateur.prune` of all the
pictures to solve on, at the largest side or the one behind the `@`. Agreement with the full network at side {largest}
on photographs and cut-outs that nothing before has seen, in per cent, with its 95 % interval over pictures. Seconds are
those of all trials, or of the whole call.

{told}

    python benchmarks/photo_search.py --weights FILE --gcompris FOLDER --stamps FOLDER
    python benchmarks/photo_search.py --page

Commits: {commits}.
"""

TOLD = """\
At no share is the search behind the best single method by more than its interval, and at half it is ahead. It was not
so before: one search within 0.8, with seeds at the two largest sides only, stood at 37.2 on photographs at half,
beside 49.2 of L2 at side 128 (commit 901591a). Three things changed: seeds of methods come at the shortest side, too
(39.9 at half, the same search otherwise); that budget has a search of its own; and in it `max_error=0.9` lets count
what disagrees with the full network more than half of the time, which by default nothing does, so that a search
within 0.8 has no reason to look at half. Which of the last two did more was not tried. Where one budget is wanted,
give that as the budget."""


def page():
    """Write the page."""
    kept = {path.stem: json.loads(path.read_text()) for path in sorted(KEPT.glob("*.json"))}
    lines = ["| MACs at most | made by | MACs | side | photographs | cut-outs on white | seconds |", "|" + " --- |" * 7]
    for share in SHARES:
        here = {name.rpartition("-")[0]: found for name, found in kept.items() if name.endswith(f"-{share}")}
        for who in sorted(here, key=lambda name: name != "search"):
            found = here[who]
            values = [f"{100 * a:.1f} ({100 * b:.1f} to {100 * c:.1f})" for a, b, c in found["agreement"].values()]
            lines.append(
                f"| {share} | {who} | {found['share']:.2f} | {found['side']} | {' | '.join(values)} | "
                f"{found['seconds']:.0f} |"
            )
    tables = [Study.look(KEPT / f"study-{budget}").trials()["seconds"] for budget in SEARCHES]
    seconds = pd.concat(tables)
    text = INTRODUCTION.format(
        trials=" and ".join(str(count) for count in dict.fromkeys(len(table) for table in tables)),
        sides=", ".join(map(str, SIDES)),
        largest=SIDES[0],
        each=f"{seconds.median():.0f}",
        minutes=" and ".join(f"{table.sum() / 60:.0f}" for table in tables),
        told=TOLD,
        commits=", ".join(sorted({found["commit"] for found in kept.values()})),
    )
    PAGE.write_text("\n".join([text, *lines, ""]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights")
    parser.add_argument("--gcompris")
    parser.add_argument("--stamps")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    if asked.page:
        page()
        sys.exit()
    model, solve, labels, judges = everything(asked)
    for budget in SEARCHES:
        searched(asked, budget, model, solve, labels, judges)
    for share in SHARES:
        for method in METHODS:
            single(method, share, asked, model, solve, judges)
        side = json.loads((KEPT / f"search-{share}.json").read_text())["side"]
        single(f"l2@{side}", share, asked, model, solve, judges)
