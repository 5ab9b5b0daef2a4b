"""From files to a task: readers of labelled images, and one seeded, stratified split into train, validation and test.

`Data` holds the settings (one table of a study file) and `Data.task()` is what a study takes. A reader turns a path
into an `ImageSet`; data that bring their own validation or test split keep it. Nothing is ever unpickled.
"""

import inspect
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import PlainValidator

from ...evaluators import Augment, Classification, ImageTask, MultiLabel, Regression, Segmentation
from ...lazy import Registry
from ...spaces.checked import AT_LEAST_0
from .readers.arrays import FASHION_MNIST, fashion_mnist, idx, mnist5k, npz, read_idx
from .readers.folders import folder, masks, table
from .readers.image_files import ImageFiles
from .readers.splits import ImageSet, Pair, listed, split

__all__ = [
    "FASHION_MNIST",
    "READERS",
    "Data",
    "ImageSet",
    "Reader",
    "fashion_mnist",
    "folder",
    "idx",
    "mnist5k",
    "npz",
    "read_idx",
    "split",
    "table",
]

logger = logging.getLogger("secateur")


def _a_name(given: Any) -> Any:
    if given is None or callable(given) or hasattr(given, "update"):
        return given
    if not isinstance(given, str) or not re.fullmatch(r"[\w.]+:[\w.]+", given):
        raise ValueError(f"expected 'package.module:name', given {given!r}")
    return given


NAMED = ("loss", "metric", "transform")  # settings that a study file names code for
Named = Annotated[Any, PlainValidator(_a_name)]
Reader = Callable[[str | Path | None], "ImageSet"]
"""From a file or folder, None for the reader's own place, to its images."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images a study learns from: the settings of a reader, of the split, and of the task made of them.

    Attributes:
        kind: What is learned of an image: "classification", a class; "multi-label", 0 or 1 for each of several labels;
            "regression", values; "segmentation", the class of every pixel.
        reader: One of `READERS`: ours, and those of installed packages.
        path: The file or folder; None takes the reader's own place, where it has one.
        side: Images of a folder are resized (shorter side) and cropped to it; None takes them as they are.
        mode: "L" (grey) or "RGB", which images of a folder are made; None: grey where all seem to be.
        lazy: Images of a folder are decoded anew at every use, rather than kept in memory.
        validation: Images held out for the search: a number, a fraction of the training images, or a text file that
            lists them, one a line: `class/name.png` of a folder, the number of the image elsewhere.
        test: Images held out for the end, likewise; None takes the data's own test split, or else a fifth.
        split_seed: Of the split, where it is drawn.
        batch: Images a batch; None: 128, and 16 with a mask each.
        augment: How training images are moved.
        label_smoothing: Share of the target spread over all classes.
        mean: One value a channel, taken off images scaled to 0..1; None takes nothing off.
        std: One value a channel, by which the rest is divided; None divides by nothing.
        normalise: "measure" measures mean and std, where they are not given, on training images.
        classes: Number of classes; None counts them.
        class_weights: One number a class, or "balanced", by which the loss weighs classes.
        overlap: "iou" (mIoU) or "dice", which the error of masks is one minus.
        ignore: The label of pixels of a mask that count for nothing.
        loss: In place of cross-entropy, a function of outputs and targets; in a study file `package.module:name`.
        metric: In place of the share of wrong answers, likewise; see `Classification`.
        maximise: Whether more of the metric is better, where it does not say so.
        transform: Of each image, likewise.
        workers: Processes that read images that are not kept in memory.
    """

    kind: Literal["classification", "multi-label", "regression", "segmentation"] = "classification"
    reader: str = "mnist5k"
    path: str | Path | None = None
    side: int | tuple[int, int] | None = None
    mode: Literal["L", "RGB"] | None = None
    lazy: bool = False
    validation: int | float | str = 0.2
    test: int | float | str | None = None
    split_seed: int = 0
    batch: int | None = None
    augment: Augment | None = None
    label_smoothing: float = 0.0
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    normalise: Literal["measure"] | None = None
    classes: int | None = None
    class_weights: Literal["balanced"] | Sequence[float] | None = None
    overlap: Literal["iou", "dice"] = "iou"
    ignore: int | None = None
    loss: Named = None
    metric: Named = None
    maximise: bool | None = None
    transform: Named = None
    workers: Annotated[int, AT_LEAST_0] = 0

    def __post_init__(self) -> None:
        """Refuse an unknown reader, and settings that its files or this kind have no use for.

        Raises:
            ValueError: A reader of no such name, or settings of another reader or kind.
            ImportError: The package that adds this reader gives none.
        """
        READERS.named(self.reader)
        files = self.reader in ("folder", "csv")
        if not files and (self.side is not None or self.lazy or self.mode is not None):
            raise ValueError(
                f"side, mode and lazy are for the reader 'folder' or 'csv'; {self.reader!r} has images of one kind"
            )
        if self.lazy and self.kind == "segmentation":
            raise ValueError("lazy is not for masks, which are kept in memory; give a factory of your own instead")
        wrong = {"folder": ("multi-label", "regression"), "csv": ("segmentation",)}
        if self.kind in wrong.get(self.reader, ()):
            other = "folder" if self.reader == "csv" else "csv"
            raise ValueError(f"the reader {self.reader!r} has no targets for {self.kind}; {other!r} has")
        for name, kinds in _OF.items():
            if self.kind not in kinds and getattr(self, name) != getattr(Data, name):
                raise ValueError(f"{name} is for {' and '.join(kinds)}; this is {self.kind}")

    def read(self) -> ImageSet:
        """The images as they are stored."""
        if self.reader == "folder" and self.kind == "segmentation":
            return masks(self.path, side=self.side, mode=self.mode)
        if self.reader == "folder":
            return folder(self.path, side=self.side, lazy=self.lazy, mode=self.mode)
        if self.reader == "csv":
            return table(self.path, kind=self.kind, side=self.side, lazy=self.lazy, mode=self.mode)
        if self.reader == "npz":
            return npz(self.path, kind=self.kind)
        found = READERS[self.reader](self.path)
        if not isinstance(found, ImageSet):
            raise TypeError(f"the reader {self.reader!r} gave a {type(found).__name__}; expected an ImageSet")
        return found

    def task(self, *, trained: bool = False) -> ImageTask:
        """The images, split, as a task.

        Args:
            trained: warn of a validation split that is drawn here, because a network that was trained elsewhere may
                have learned from its images.
        """
        images = self.read()
        if trained and images.validation is None and not isinstance(self.validation, str):
            logger.warning(
                "validation=%s is drawn at random (split_seed=%s): a checkpoint that was trained on other parts of "
                "these images has learned from some of it, and errors are too low then; give the split that it knew: "
                "its split_seed, or files that list its images, as validation = 'validation.txt'",
                *(self.validation, self.split_seed),
            )
        held = (None if one is None else listed(one, images) for one in (self.validation, self.test))
        parts = split(images, *held, seed=self.split_seed)
        given: dict[str, Any] = dict(zip(("train", "validation", "test"), map(_given, parts), strict=True))
        alike = ("batch", "augment", "mean", "std", "normalise", "loss", "metric", "maximise", "transform", "workers")
        given |= {name: getattr(self, name) for name in alike}
        given |= {name: getattr(self, name) for name, kinds in _OF.items() if self.kind in kinds}
        if self.kind == "classification" and self.classes is None and images.names is not None:
            given["classes"] = len(images.names)
        return _TASKS[self.kind](**given)


_TASKS: dict[str, type[ImageTask]] = {
    "classification": Classification,
    "multi-label": MultiLabel,
    "regression": Regression,
    "segmentation": Segmentation,
}
_OF = {  # settings of some kinds only
    "classes": ("classification", "segmentation"),
    "label_smoothing": ("classification",),
    "class_weights": ("classification", "multi-label", "segmentation"),
    "overlap": ("segmentation",),
    "ignore": ("segmentation",),
}


def check_reader(name: str, reader: Any) -> Reader:
    """What an entry point names, where it can read.

    Raises:
        TypeError: It can't be called with a path.
    """
    if not callable(reader):
        raise TypeError(f"{reader!r} cannot be called; expected a function from a path, or None, to an ImageSet")
    inspect.signature(reader).bind(None)
    return cast("Reader", reader)


READERS: Registry[Reader] = Registry(
    "reader",
    {"mnist5k": mnist5k, "fashion_mnist": fashion_mnist, "folder": folder, "csv": table, "npz": npz, "idx": idx},
    "secateur.readers",
    check_reader,
)
"""Every reader that a study file may name."""


def _given(pair: Pair) -> Any:
    """A split as the task takes it: files know their labels themselves."""
    images, labels = pair
    return images if isinstance(images, ImageFiles) else (images, labels)
