"""A text encoder and a small ViT at a share of their multiply-adds: searched, or by one rule; with the same training.

    pip install torch-pruning==1.6.1
    python benchmarks/encoders.py text [--seeds 3] [--share 0.4] [--again]
    python benchmarks/encoders.py images --data FOLDER
    python benchmarks/encoders.py --page

text     which of eight libraries a passage of 16 words of documentation is from: the docstrings of what is installed
         with Secateur (NumPy, SciPy, pandas, scikit-learn, SymPy, NetworkX, PyTorch) and of Python itself; names of
         libraries are left out, and the splits share no file. A BERT-like encoder, norms behind the sums.
images   Fashion-MNIST (FOLDER holds its four IDX files); a ViT with a class token and patches of 7 x 7, whose position
         embeddings are interpolated to the side.

Both have three layers of six heads, a stream of 48 and an MLP of 192 inside; they learn from 4,800 passages or 6,000
images, a base network a seed. Every way then has the same passes over the training examples, EPOCHS.

full           the whole network, trained on
uniform        one ratio for heads, MLP and stream
torch-pruning  Torch-Pruning's global Taylor pruning of heads, MLP and stream, head sizes whole
mlpruning      `--method mlpruning`, half of the epochs for the method
search         width, heads, layers, and the side of images or the length of passages: shared weights for one epoch of
               four passes, scores without any training, the best by validation error for what is left
Cells are kept in build/encoders; `--page` writes the tables into docs/transformers.md.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib.util
import json
import math
import re
import statistics
import sysconfig
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from fashion import commit, mean_and_error
from scipy.stats import t as student
from torch import nn

from secateur import Budget, Classification, Search, Space, Study, Training
from secateur.evaluators import Teacher, measure_error, train
from secateur.evaluators.tasks.learned import ErrorRate
from secateur.pruners import realised
from secateur.studies.exports.exporter import finalists
from secateur.studies.proposals.pruning import Pruning, method_named
from secateur.studies.proposals.seeds import Aim
from secateur.studies.study_files.data import Data

ROOT = Path(__file__).parents[1]
KEPT, PAGE = ROOT / "build" / "encoders", ROOT / "docs" / "transformers.md"
LIBRARIES = ("numpy", "scipy", "pandas", "sklearn", "sympy", "networkx", "torch", "python")
NAMES = {*LIBRARIES, "np", "pd", "nx", "scikit", "learn", "pytorch"}
WORDS, LENGTH = 2000, 16
TRAIN = {"text": 4800, "images": 6000}
HELD = {"validation": 1200, "test": 2400}
BASE_EPOCHS = {"text": 5, "images": 8}
EPOCHS, SHARED, TRIALS = 6, 1, 60
PASSES = 4  # a step of shared training: the full network, the smallest, and two drawn
SIDES = {"text": (16, 12, 8), "images": (28, 21, 14)}
WAYS = ("full", "uniform", "torch-pruning", "mlpruning", "search")
SETTINGS = {
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "warmup": 0.1,
    "clip": 1.0,
    "pruning_epochs": EPOCHS // 2,
    "shared_epochs": SHARED,
}


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, s, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, s, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(x.reshape(n, s, self.num_heads * self.head_dim))


class Layer(nn.Module):
    """A layer of an encoder; its norms are behind the sums, as in BERT, or before the parts, as in a ViT."""

    def __init__(self, width, heads, behind):
        super().__init__()
        self.attention, self.norm1, self.norm2 = Attention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.behind = behind

    def forward(self, x):
        if self.behind:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    def __init__(self, width=48, heads=6, layers=3):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(LENGTH, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads, behind=True) for _ in range(layers))
        self.head = nn.Linear(width, len(LIBRARIES))

    def forward(self, tokens):
        x = self.norm(self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device)))
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class ViT(nn.Module):
    def __init__(self, width=48, heads=6, layers=3):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, width, 4, 4))
        self.layers = nn.ModuleList(Layer(width, heads, behind=False) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images):
        x = self.patches(images)
        places = F.interpolate(self.places, size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = (x + places).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


@dataclass(frozen=True)
class Batch:
    inputs: torch.Tensor
    targets: torch.Tensor
    resolution: tuple[int, ...] | None


class Passages:
    """Tokens and labels of three splits, as a `Task`."""

    preprocessing = {"words": WORDS, "length": LENGTH}

    def __init__(self, splits, batch=64):
        self.splits, self.batch = splits, batch
        self.sizes = {name: len(labels) for name, (_, labels) in splits.items()}
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for pair in splits.values() for tensor in pair))
        self.fingerprint = f"passages-{digest.hexdigest()[:16]}-{batch}"

    def loader(self, split, resolution, seed):
        tokens, labels = self.splits[split]
        order = torch.arange(len(labels))
        if seed is not None:
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        return [Batch(tokens[part], labels[part], resolution) for part in order.split(self.batch)]

    def at(self, batch, resolution):
        return replace(batch, resolution=resolution)

    def forward(self, model, batch):
        (length,) = batch.resolution or (LENGTH,)
        return model(batch.inputs[:, :length]), batch.targets

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets)

    def error(self):
        return ErrorRate()

    def distill(self, outputs, teacher_outputs, temperature):
        mine, theirs = ((one / temperature).log_softmax(1) for one in (outputs, teacher_outputs))
        return F.kl_div(mine, theirs, log_target=True, reduction="batchmean") * temperature**2


def text(folder):
    """The passages: words of the same file are in the same split, at most 20 passages a file."""
    counts = {"train": TRAIN["text"], **HELD}
    found = {split: [] for split in counts}
    for label, library in enumerate(LIBRARIES):
        wanted = {split: count // len(LIBRARIES) for split, count in counts.items()}
        for path, words in documented(library):
            place = zlib.crc32(path.encode()) % 20
            split = "test" if place < 5 else "validation" if place < 8 else "train"
            passages = [words[at : at + LENGTH] for at in range(0, len(words) - LENGTH + 1, LENGTH)][:20]
            taken = passages[: wanted[split]]
            wanted[split] -= len(taken)
            found[split] += [(passage, label) for passage in taken]
            if not any(wanted.values()):
                break
        if any(wanted.values()):
            raise ValueError(f"{library} has too little documentation: {wanted} passages are missing")
    words = Counter(word for passage, _ in found["train"] for word in passage)
    numbers = {word: number for number, (word, _) in enumerate(words.most_common(WORDS - 1), start=1)}
    return Passages(
        {
            split: (
                torch.tensor([[numbers.get(word, 0) for word in passage] for passage, _ in rows]),
                torch.tensor([label for _, label in rows]),
            )
            for split, rows in found.items()
        }
    )


def documented(library):
    """Path and words of the docstrings of every file of a library, in an order that depends on the paths alone."""
    if library == "python":
        folder = Path(sysconfig.get_path("stdlib"))
    else:
        folder = Path(importlib.util.find_spec(library).origin).parent
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*.py")}
    for name in sorted(paths, key=lambda name: zlib.crc32(name[::-1].encode())):
        if "test" in name or "site-packages" in name:
            continue
        try:
            tree = ast.parse(paths[name].read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        said = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        yield name, [word for word in re.findall("[a-z]+", " ".join(said).lower()) if word not in NAMES]


def images(folder):
    """Some of Fashion-MNIST."""
    task = Data(reader="fashion_mnist", path=folder, validation=5000).task()
    splits = {}
    for name, count in {"train": TRAIN["images"], **HELD}.items():
        batches = list(task.loader(name, None, None))
        splits[name] = tuple(torch.cat([getattr(b, part) for b in batches])[:count] for part in ("inputs", "targets"))
    return Classification(**splits, batch=64)


def traced(kind, model, **settings):
    example = torch.zeros(1, LENGTH, dtype=torch.int64) if kind == "text" else torch.rand(1, 1, 28, 28)
    return Space.trace(model.eval(), example, divisor=4, **settings)


def base(kind, seed, task):
    """The trained full network of a seed."""
    path = KEPT / f"{kind}-base-{seed}.pt"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TextEncoder() if kind == "text" else ViT()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(model, task, Training(**SETTINGS), epochs=BASE_EPOCHS[kind], seed=seed)
        KEPT.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model.eval()


def cell(kind, way, share, seed, task):
    """What one way makes of a base network within a share of its multiply-adds."""
    model = base(kind, seed, task)
    started = time.process_time()
    side, left, notes = None, EPOCHS, {}
    space = traced(kind, model, resolutions=SIDES[kind] if way == "search" else ())
    limits = {"macs": share * space.full_costs["macs"]}
    if way == "full":
        small = copy.deepcopy(model)
    elif way == "torch-pruning":
        small = peer(kind, model, limits["macs"], task)
    elif way == "search":
        small, candidate, left = searched(model, space, share, seed, task)
        side, notes = space.side(candidate) or None, dict(zip([a.name for a in space.axes], candidate, strict=True))
    else:
        method, cpu = method_named(way), torch.device("cpu")
        pruning = Pruning(
            model=model, space=space, task=task, training=Training(**SETTINGS), seed=seed, device=cpu
        )  # fmt: skip
        proposal = pruning.propose(method, Aim(limits=limits))
        left -= EPOCHS // 2 if method.needs == "training" else 0
        small, notes = realised(model, space, proposal), {"widths": list(proposal.candidate), **proposal.notes}
    teacher = None if way == "full" else Teacher(model=model)
    train(small, task, Training(**SETTINGS), epochs=left, resolution=side, seed=seed, teacher=teacher)
    macs = space.cost_table([candidate])["macs"][0] if way == "search" else traced(kind, small).full_costs["macs"]
    assert way == "full" or macs <= limits["macs"], (way, macs, limits)
    return {
        "errors": {split: measure_error(small, task, split=split, resolution=side).compute()
                   for split in ("validation", "test")},
        "macs": float(macs / space.full_costs["macs"]),
        "seconds": time.process_time() - started,
        "notes": notes,
        "commit": commit(),
    }  # fmt: skip


def searched(model, space, share, seed, task):
    """The best network of a search with shared weights, by validation error, with the weights it was scored with."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study.create(
            Path(folder) / "study",
            model=model,
            task=task,
            space=space,
            budget=Budget(macs=share),
            training=Training(**SETTINGS),
            search=Search(objectives=("error",), evaluator="shared-weights", seed=seed, threads=1),
        )
        study.run(TRIALS)
        limits = study.limits()
        fit = [trial for trial in study._ledger.trials if trial.scored and trial.within(limits)]
        best = finalists(fit, space, ("error",), 1)[0]
        small = study._engine.artifacts.build(model, best.candidate, best.ranking, best.weights)
        return small, best.candidate, EPOCHS - SHARED * PASSES


def peer(kind, model, limit, task):
    """Torch-Pruning's network within the limit: whole heads, MLP and stream, the largest ratio of a bisection."""
    import torch_pruning as tp

    example = torch.zeros(1, LENGTH, dtype=torch.int64) if kind == "text" else torch.rand(1, 1, 28, 28)

    def pruned(ratio):
        small = copy.deepcopy(model)
        for _, batch in zip(range(8), task.loader("train", None, None), strict=False):
            outputs, targets = task.forward(small, batch)
            task.loss(outputs, targets).backward()
        attentions = [module for module in small.modules() if isinstance(module, Attention)]
        pruner = tp.pruner.BasePruner(
            small,
            example,
            importance=tp.importance.GroupTaylorImportance(),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            ignored_layers=[small.head],
            num_heads={one.qkv: one.num_heads for one in attentions},
            prune_num_heads=True,
            prune_head_dims=False,
            head_pruning_ratio=ratio,
        )
        pruner.step()
        for one in attentions:
            one.num_heads = pruner.num_heads[one.qkv]
            one.head_dim = one.qkv.out_features // (3 * one.num_heads)
        small.zero_grad(set_to_none=True)
        return small

    low, high = 0.0, 0.95
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (low, middle) if multiplied(pruned(middle), example) <= limit else (middle, high)
    return pruned(high)


def multiplied(model, example):
    """Multiply-adds by PyTorch's own counter, on the meta device: on others it leaves fused attention out."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta")(example.to("meta"))
    return counter.get_total_flops() / 2


def kept(kind, way, share, seed):
    return KEPT / f"{kind}-{way}-{share}-{seed}.json"


def complete(kind, share, seeds):
    """The seeds that every way has run."""
    return [seed for seed in range(seeds) if all(kept(kind, way, share, seed).exists() for way in WAYS)]


def table(kind, share, seeds):
    """Lines of a Markdown table, best validation error first; of the complete seeds."""
    done = complete(kind, share, seeds)
    found = {way: [json.loads(kept(kind, way, share, seed).read_text()) for seed in done] for way in WAYS}
    out = ["| way | test error % | validation error % | MACs | seconds |", "| --- | --- | --- | --- | --- |"]
    for way in sorted(found, key=lambda way: statistics.mean(cell["errors"]["validation"] for cell in found[way])):
        cells = found[way]
        errors = [said([100 * cell["errors"][split] for cell in cells]) for split in ("test", "validation")]
        macs, seconds = (statistics.mean(cell[key] for cell in cells) for key in ("macs", "seconds"))
        out.append(f"| {way} | {errors[0]} | {errors[1]} | {macs:.3f} | {seconds:.0f} |")
    commits = {cell["commit"] for cells in found.values() for cell in cells}
    return [*out, "", f"Commit: {', '.join(sorted(commits))}; {len(done)} seed{'s' if len(done) > 1 else ''}."]


def said(values):
    """Mean and the half of a 95 % interval by Student's t."""
    mean, error = mean_and_error(values)
    return f"{mean:.1f} ± {error * student.ppf(0.975, len(values) - 1):.1f}" if not math.isnan(error) else f"{mean:.1f}"


def page(share, seeds):
    """Put the tables between their marks; one of which nothing is complete stays."""
    found = PAGE.read_text()
    for kind in [kind for kind in TRAIN if complete(kind, share, seeds)]:
        begin, end = (f"<!-- benchmarks/encoders.py, {kind}: {mark} -->" for mark in ("begin", "end"))
        before, _, rest = found.partition(begin)
        found = "\n".join([before + begin, "", *table(kind, share, seeds), "", end]) + rest.partition(end)[2]
    PAGE.write_text(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=("text", "images"))
    parser.add_argument("--data", help="folder of Fashion-MNIST's four IDX files")
    parser.add_argument("--only", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--again", action="store_true", help="run cells that are kept, too")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/transformers.md")
    arguments = parser.parse_args()
    if arguments.page:
        return page(arguments.share, arguments.seeds)
    if arguments.kind is None or (arguments.kind == "images" and not arguments.data):
        parser.error("say text, or images --data FOLDER")
    task = (text if arguments.kind == "text" else images)(arguments.data)
    for seed in range(arguments.seeds):
        for way in arguments.only:
            path = kept(arguments.kind, way, arguments.share, seed)
            if path.exists() and not arguments.again:
                continue
            found = cell(arguments.kind, way, arguments.share, seed, task)
            path.write_text(json.dumps(found, default=str))
            errors = ", ".join(f"{split} {100 * error:.1f} %" for split, error in found["errors"].items())
            print(f"{way}, seed {seed}: {errors}, MACs {found['macs']:.3f}, {found['seconds']:.0f} s", flush=True)
    if complete(arguments.kind, arguments.share, arguments.seeds):
        print("\n".join(table(arguments.kind, arguments.share, arguments.seeds)))


if __name__ == "__main__":
    main()
