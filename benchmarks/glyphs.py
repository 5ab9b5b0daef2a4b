"""Rendered glyphs: 100 characters of 45 families of fonts, told apart at 16x16 pixels; split by family.

    mkdir -p build/glyphs && cd build/glyphs
    apt-get download $(python ../../benchmarks/glyphs.py)
    for file in *.deb; do dpkg-deb -x $file ${file%%_*}; done

Without arguments it prints the Debian packages that it is drawn from. Labels are exact; pictures are drawn here, and no
photographs. `0` and `O`, or `l` and `I`, look alike in some families: nobody gets all of them right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur import Classification

FOLDER = Path(__file__).parents[1] / "build" / "glyphs"
SIDE, SIZE, BASELINE = 16, 14, 12
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789àáâãäåæçèéêëìíîïñòóôõöøùúûüß&@#$%?!+*="
PACKAGES = """
3270 adf-accanthis adf-baskervald adf-berenis adf-gillius adf-ikarius adf-irianis adf-libris adf-mekanus adf-oldania
adf-romande adf-switzera adf-tribun adf-universalis adf-verana agave anonymous-pro arapey averia-serif-gwf b612 cabin
cantarell cardo clear-sans comfortaa comic-neue courier-prime crosextra-caladea crosextra-carlito dancingscript
dejavu-core dosis ebgaramond essays1743 fanwood firacode georgewilliams gfs-artemisia go goudybookletter inconsolata
isabella jetbrains-mono junicode jura karla kaushanscript lato liberation2 lindenhill lobster monofur monoid-tight
""".split()
UNKNOWN = "\U0010ffff"  # no face has it: what is drawn is what stands for a missing character
FAMILIES = {"train": 15, "validation": 5, "test": 25}


def glyphs(folder: Path = FOLDER) -> Classification:
    """The task: 16x16 grey pictures of 100 characters.

    Raises:
        SystemExit: packages are missing.
    """
    missing = [name for name in PACKAGES if not (folder / f"fonts-{name}").is_dir()]
    if missing:
        raise SystemExit(f"no fonts {', '.join(missing)} in {folder}; {Path(__file__).name} says how to get them")
    families = [face for face in (complete(folder / f"fonts-{name}") for name in PACKAGES) if face]
    order = np.random.default_rng(0).permutation(len(families))
    splits, start = {}, 0
    for name, count in FAMILIES.items():
        drawn = [drawn_by(families[number]) for number in order[start : start + count]]
        start += count
        splits[name] = torch.cat(drawn)[:, None], torch.arange(len(CHARACTERS)).repeat(len(drawn))
    return Classification(**splits, batch=128, normalise="measure")


def complete(package: Path) -> Path | None:
    """A face of a package that has every character, a regular one first; None where there is none."""
    files = sorted(path for path in package.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    for path in sorted(files, key=lambda path: "regular" not in path.stem.lower()):
        *pictures, unknown = drawn_by(path, CHARACTERS + UNKNOWN)
        if not any(torch.equal(picture, unknown) for picture in pictures):
            return path
    return None


def drawn_by(face: Path, characters: str = CHARACTERS) -> Tensor:
    """`(characters, 16, 16)` uint8 pictures, white on black."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(face), SIZE)
    pictures = []
    for character in characters:
        picture = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(picture).text((SIDE / 2, BASELINE), character, fill=255, font=font, anchor="ms")
        pictures.append(np.asarray(picture))
    return torch.from_numpy(np.stack(pictures))


if __name__ == "__main__":
    print(" ".join(f"fonts-{name}" for name in PACKAGES))
