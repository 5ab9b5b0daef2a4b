"""A YOLO of Ultralytics within a budget, trained and validated by Ultralytics, as ONNX by them and by us.

    pip install 'secateur[onnx,plot,yolo]'
    python examples/yolo/run.py --out runs/yolo

`shapes.py` draws pictures and knows their boxes, `smaller.py` has all that concerns Secateur. Trains a YOLO26n, cuts
it, trains what is left, and prints mAP on pictures that nothing was chosen by, and milliseconds of ONNX Runtime.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import onnxruntime
import torch
from shapes import NAMES, draw

os.environ.setdefault("YOLO_OFFLINE", "true")  # Ultralytics asks the network for fonts, versions and weights otherwise

from smaller import trained, within, written  # noqa: E402
from ultralytics import YOLO  # noqa: E402

import secateur as sc  # noqa: E402

COUNTS = {"train": 320, "val": 80, "test": 200}


def accuracy(checkpoint, **settings):
    """mAP50-95 and mAP50 on the test pictures, by Ultralytics' validator."""
    box = YOLO(checkpoint).val(split="test", **settings).box
    return {"mAP50-95": 100 * box.map, "mAP50": 100 * box.map50}


def milliseconds(files, side, rounds=30):
    """Of one picture on one thread, the median for each file; they take turns, so all share what else runs here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {name: onnxruntime.InferenceSession(file, options) for name, file in files.items()}
    taken = {name: [] for name in files}
    for _ in range(rounds + 3):
        for name, session in sessions.items():
            inputs = {session.get_inputs()[0].name: torch.rand(1, 3, side, side).numpy()}
            start = time.perf_counter()
            session.run(None, inputs)
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times[3:]) for name, times in taken.items()}


def show(rows, costs):
    """Print a table."""
    print("| network | million MACs | parameters | mAP50-95, % | mAP50, % | ms, their ONNX | ms, ours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        own, whole = costs[row["of"]], costs["full"]
        size = f"{own['macs'] / 1e6:.0f} ({own['macs'] / whole['macs']:.0%}) | {own['params']:,.0f}"
        times = [f"{row[kind]:.2f}" if kind in row else "" for kind in ("theirs", "ours")]
        print(f"| {name} | {size} | {row['mAP50-95']:.1f} | {row['mAP50']:.1f} | {' | '.join(times)} |")


def picture(path, checkpoints, folder, side, count=5):
    """What each network finds on the first test pictures."""
    figure, axes = plt.subplots(
        len(checkpoints), count, figsize=(2 * count, 2.2 * len(checkpoints)), layout="constrained"
    )
    files = sorted(folder.glob("*.png"))[:count]
    for line, (name, checkpoint) in zip(axes, checkpoints.items(), strict=True):
        found = YOLO(checkpoint).predict([str(file) for file in files], conf=0.3, nms=False, verbose=False, imgsz=side)
        for place, result in zip(line, found, strict=True):
            place.imshow(result.orig_img[..., ::-1])
            for left, top, right, bottom, score, kind in result.boxes.data.tolist():
                place.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color="white"))
                place.text(left, top - 2, f"{NAMES[int(kind)]} {score:.0%}", fontsize=6, backgroundcolor="white")
            place.set(xticks=[], yticks=[])
        line[0].set(ylabel=name)
    figure.savefig(path, dpi=100)


def main():
    """Draw, train, cut, train, write, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/yolo"))
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--macs", type=float, default=0.5, help="share of the multiply-adds")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tuning-epochs", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--all-boxes", action="store_true", help="of ONNX files: for a non-maximum suppression of yours"
    )
    parser.add_argument("--tiny", action="store_true", help="so small that it shows only that all runs")
    given = parser.parse_args()
    side, counts = 128, COUNTS
    if given.tiny:
        side, counts, given.epochs, given.tuning_epochs = 64, dict.fromkeys(COUNTS, 8), 1, 1
    out = given.out.resolve()
    data = draw(out / "pictures", counts, side)
    # Without mosaics a short training learns faster, and weights move after every batch (nbs). `nms=False` takes the
    # head whose boxes need no non-maximum suppression.
    common = {"data": str(data), "imgsz": side, "batch": 16, "nms": False, "plots": False, "device": given.device}
    common |= {"project": str(out), "verbose": False}
    training = common | {"nbs": 16, "mosaic": 0.0, "amp": False}

    yolo = YOLO(given.model)
    yolo.train(epochs=given.epochs, name="full", **training)
    full = YOLO(yolo.trainer.best)
    space, candidate, scores = within(full.model, side, given.macs)
    small = sc.build(full.model, space, candidate, scores)
    torch.save({"model": small}, out / "cut.pt")
    tuned = trained(full, small, epochs=given.tuning_epochs, name="tuned", **training)

    nms = None if given.all_boxes else False
    files = {"full": written(out / "full_onnx", yolo.trainer.best, full.model, space, space.full, None, nms)}
    files["tuned"] = written(out / "tuned_onnx", tuned, full.model, space, candidate, scores, nms)
    times = milliseconds({(name, kind): file for name, pair in files.items() for kind, file in pair.items()}, side)
    rows = {
        "full": {"of": "full", **accuracy(yolo.trainer.best, **common)},
        "cut": {"of": "cut", **accuracy(out / "cut.pt", **common)},
        "cut, fine-tuned": {"of": "cut", **accuracy(tuned, **common)},
    }
    for row, name in (("full", "full"), ("cut, fine-tuned", "tuned")):
        rows[row] |= {kind: times[name, kind] for kind in ("theirs", "ours")}
    show(rows, {"full": space.costs([space.full]).iloc[0], "cut": space.costs([candidate]).iloc[0]})
    picture(
        out / "boxes.png", {"full": yolo.trainer.best, "cut, fine-tuned": tuned}, out / "pictures/images/test", side
    )
    print(f"{time.process_time():.0f} s of one core")


if __name__ == "__main__":
    main()
