"""Pictures of shapes whose boxes are known exactly, in the folders that Ultralytics reads."""

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("disc", "square", "triangle")


def draw(folder, counts, side, seed=0):
    """Write so many pictures and labels of each split; the YAML file that names them."""
    random = np.random.default_rng(seed)
    for split, count in counts.items():
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            picture, boxes = one(random, side)
            picture.save(images / f"{number:04d}.png")
            lines = [f"{kind} {x / side} {y / side} {size / side} {size / side}\n" for kind, x, y, size in boxes]
            (labels / f"{number:04d}.txt").write_text("".join(lines))
    splits = "".join(f"{split}: images/{split}\n" for split in counts)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(f"path: {folder.resolve()}\n{splits}names:\n{names}")
    return folder / "data.yaml"


def one(random, side):
    """A picture of one to five shapes beside one another; class, centre and size of each, in pixels."""
    blotches = random.integers(40, 200, (side // 8, side // 8, 3), dtype=np.uint8)
    picture = Image.fromarray(blotches).resize((side, side), Image.Resampling.BICUBIC)
    pen, boxes = ImageDraw.Draw(picture), []
    for _ in range(random.integers(1, 6)):
        size = random.uniform(0.12, 0.4) * side
        x, y = random.uniform(size / 2, side - size / 2, 2)
        if any(max(abs(x - left), abs(y - top)) < (size + other) / 2 for _, left, top, other in boxes):
            continue  # there is another one
        kind, colour = int(random.integers(len(NAMES))), tuple(random.integers(0, 256, 3).tolist())
        left, top, right, bottom = x - size / 2, y - size / 2, x + size / 2, y + size / 2
        if NAMES[kind] == "disc":
            pen.ellipse((left, top, right, bottom), colour)
        elif NAMES[kind] == "square":
            pen.rectangle((left, top, right, bottom), colour)
        else:
            pen.polygon([(left, bottom), (right, bottom), (x, top)], colour)
        boxes.append((kind, x, y, size))
    return picture, boxes
