"""The mean average precision of `Detection` beside that of pycocotools, on boxes drawn at random.

pip install --no-deps pycocotools
python benchmarks/boxes.py
"""

import argparse
import contextlib
import io
import time

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from secateur.evaluators import BoxPrecisionError

CLASSES = 4


def drawn(images, generator, side=100.0):
    """Targets of so many images, and answers: some near a target, some anywhere, scores with ties."""

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    answers, targets = [], []
    for _ in range(images):
        count = int(torch.randint(0, 8, (), generator=generator))
        corner, size = rand(count, 2) * side / 2, 2 + rand(count, 2) * side / 2
        boxes, labels = torch.cat([corner, corner + size], 1), torch.randint(0, CLASSES, (count,), generator=generator)
        near = boxes.repeat(3, 1) + (rand(3 * count, 4) - 0.5) * size.repeat(3, 2) * rand(3 * count, 1)
        strange = torch.cat([corner := rand(5, 2) * side / 2, corner + 2 + rand(5, 2) * side / 2], 1)
        near[:, 2:] = near[:, 2:].maximum(near[:, :2] + 1)
        kinds = labels.repeat(3)
        wrong = rand(len(kinds)) < 0.2
        kinds[wrong] = torch.randint(0, CLASSES, (int(wrong.sum()),), generator=generator)
        found, kinds = (
            torch.cat([near, strange]),
            torch.cat([kinds, torch.randint(0, CLASSES, (5,), generator=generator)]),
        )
        targets.append({"boxes": boxes, "labels": labels})
        answers.append({"boxes": found, "scores": (rand(len(found)) * 50).round() / 50, "labels": kinds})
    return answers, targets


def theirs(answers, targets):
    """By pycocotools, mAP of 0.50 to 0.95 and at 0.50."""

    def wide(boxes):
        boxes = boxes.double()
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()

    annotations, found = [], []
    for image, (answer, target) in enumerate(zip(answers, targets, strict=True), start=1):
        for box, label in zip(wide(target["boxes"]), target["labels"].tolist(), strict=True):
            one = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
            annotations.append(one | {"area": box[2] * box[3]})
        kinds, scores = answer["labels"].tolist(), answer["scores"].double().tolist()
        for box, label, score in zip(wide(answer["boxes"]), kinds, scores, strict=True):
            found.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image + 1} for image in range(len(targets))],
            "categories": [{"id": label} for label in range(CLASSES)],
            "annotations": annotations,
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[:2]


def ours(answers, targets):
    """The same by ours."""
    found = []
    for iou in (None, 0.5):
        error = BoxPrecisionError(iou=iou)
        error.update(answers, targets)
        found.append(1 - error.compute())
    return found


def main():
    """Print both, the largest difference, and seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    print("| draw | mAP, pycocotools | ours | mAP at 0.5, pycocotools | ours |")
    print("| --- | --- | --- | --- | --- |")
    off, seconds = 0.0, {"pycocotools": 0.0, "ours": 0.0}
    for draw in range(given.draws):
        answers, targets = drawn(given.images, torch.Generator().manual_seed(draw))
        pairs = []
        for name, judge in (("pycocotools", theirs), ("ours", ours)):
            start = time.process_time()
            pairs.append(judge(answers, targets))
            seconds[name] += time.process_time() - start
        columns = [f"{number:.6f}" for pair in zip(*pairs, strict=True) for number in pair]
        print(f"| {draw} | {' | '.join(columns)} |")
        off = max(off, *(abs(one - other) for one, other in zip(*pairs, strict=True)))
    print(f"largest difference {off:.1e}; seconds: {', '.join(f'{name} {time:.1f}' for name, time in seconds.items())}")


if __name__ == "__main__":
    main()
