"""Every pruning method alone, at three budgets, with the same total epochs: what is left of the network at each stage.

    python benchmarks/pruners.py [--only taylor resrep] [--seeds 3] [--again] [--page]

One small residual network on glyphs of 100 classes with 15 examples each (benchmarks/glyphs.py says how to get the
fonts), a base network a seed. A method that prunes while it trains uses half of the epochs for that, and the rest for
fine-tuning; all others use all of them for fine-tuning. Cells run one by one, all methods of a seed first, and are kept
in build/rendered, so the table can be filled over several sittings. The peer, Torch-Pruning 1.6.1 (pip install
--no-deps torch-pruning==1.6.1), prunes the same base networks to the same multiply-adds (counted by Secateur's
convention on its network); what it keeps is found again as a candidate of ours, and is then treated alike.

`--page` writes docs/pruners.md from what is kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from functools import cache
from pathlib import Path

import torch
from fashion import commit, macs_of
from glyphs import CHARACTERS, SIDE, glyphs
from safetensors.torch import load_file, save_file

from secateur import Space, Training, reconstruct
from secateur.evaluators import measure_error, recalibrate, train
from secateur.pruners import METHODS, realised
from secateur.studies.proposals.pruning import Pruning, method_named
from secateur.studies.proposals.seeds import Aim
from secateur.studies.study_files.networks import resnet20

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "rendered"
SHARES = (0.15, 0.3, 0.05)
EPOCHS, BASE_EPOCHS = 6, 40
PEERS = {"torch-pruning l1": "l1", "torch-pruning taylor": "taylor"}
ROWS = ["full", *(name for name in METHODS if name != "mlpruning"), *PEERS]  # MLPruning is of transformers alone
SETTINGS = {"lr": 0.05, "warmup": 0.1, "pruning_epochs": EPOCHS // 2, "pruning_images": 512}


@cache
def task():
    return glyphs()


@cache
def base(seed):
    """The trained full network of a seed, and its space."""
    path = KEPT / f"base-{seed}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = resnet20(classes=len(CHARACTERS), widths=(16, 32, 64), blocks=(1, 1, 1))
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        train(model, task(), Training(lr=0.1, warmup=0.1), epochs=BASE_EPOCHS, seed=seed)
        KEPT.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)
    return model.eval(), Space.trace(model, torch.rand(1, 1, SIDE, SIDE), divisor=1)


def error(model):
    return measure_error(model, task(), split="test").compute()


def proposed(name, share, seed):
    """The proposal of a method, and how many epochs it took."""
    from choosing_channels import of_peer

    (model, space), training = base(seed), Training(**SETTINGS)
    limits = {"macs": share * space.full_costs["macs"]}
    if name in PEERS:
        return of_peer(model, space, task(), limits["macs"], kind=PEERS[name], side=SIDE), 0
    method = method_named(name)
    pruning = Pruning(model=model, space=space, task=task(), training=training, seed=seed, device=torch.device("cpu"))
    return pruning.propose(method, Aim(limits=limits)), training.pruning_epochs if method.needs == "training" else 0


def cell(name, share, seed):
    """What a method makes at a share of the multiply-adds, stage by stage."""
    model, space = base(seed)
    found = {"method": name, "share": share, "seed": seed, "commit": commit(), "seconds": 0.0, "phase": 0, "macs": 1.0}
    made, errors = copy.deepcopy(model), {}
    if name != "full":
        started = time.process_time()
        proposal, found["phase"] = proposed(name, share, seed)
        found["seconds"] = time.process_time() - started
        made = realised(model, space, proposal)
        macs = macs_of(made, SIDE)
        assert macs == space.cost_table([proposal.candidate])["macs"][0], proposal
        found["macs"] = macs / space.full_costs["macs"]
        found["candidate"] = list(proposal.candidate)
        assert found["macs"] <= share, found
        if proposal.weights is None:
            solved = realised(model, space, proposal)
            batches = task().loader("train", None, None)
            images = torch.cat([task().prepare(batch, torch.device("cpu"))[0] for batch in batches])
            asked = {"candidate": proposal.candidate, "scores": proposal.scores, "images": images}
            reconstruct(solved, model=model, space=space, most=SETTINGS["pruning_images"], **asked)
            errors["reconstructed"] = error(solved)
    errors["cut"] = error(made)
    recalibrate(made, task(), images=2048)
    errors["recalibrated"] = error(made)
    for stage, epochs in (("one", 1), ("many", EPOCHS - found["phase"])):
        small = copy.deepcopy(made)
        train(small, task(), Training(**SETTINGS), epochs=epochs, seed=seed)
        errors[stage] = error(small)
    return found | {"errors": errors}


def kept(name, share, seed):
    return KEPT / f"{name.replace(' ', '-')}-{share}-{seed}.json"


def fill(names, shares, seeds, again):
    """Run the cells that are not kept."""
    for share in shares:
        for seed in range(seeds):
            for name in names:
                path = kept(name, share, seed)
                if (name == "full" and share != SHARES[0]) or (path.exists() and not again):
                    continue
                started = time.process_time()
                try:
                    found = cell(name, share, seed)
                except ValueError as refused:
                    print(f"{name} at {share}, seed {seed}: {refused}", file=sys.stderr, flush=True)
                    continue
                path.write_text(json.dumps(found))
                shown = ", ".join(f"{stage} {100 * value:.1f}" for stage, value in found["errors"].items())
                print(f"{name} at {share}, seed {seed}: {shown}; {time.process_time() - started:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=ROWS)
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="run cells that are kept, too")
    parser.add_argument("--page", action="store_true", help="write docs/pruners.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.page:
        from pruners_page import page

        (ROOT / "docs" / "pruners.md").write_text(page(asked.seeds))
    else:
        fill(asked.only, asked.shares, asked.seeds, asked.again)


if __name__ == "__main__":
    main()
