"""Detection: pictures with any number of boxes each, and networks that find them.

Two kinds of networks are known. Those that work as torchvision's detectors give a dict of losses for
`model(images, targets)` in train mode, and boxes for `model(images)` in eval mode. Those that work as YOLOs give
numbers in both, and the user says what these are worth (`loss`) and which boxes they are (`decode`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Unpack, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import DataLoader, IterableDataset

from ..modes import modes_restored
from .boxes import Boxes, Collated, Target, packed, unpacked
from .decoded import ImageSettings
from .image_task import Images, ImageTask
from .own import Own
from .sources import Batch
from .task import Metric


@final
class Detection(ImageTask):
    """Pictures with boxes; the error is one minus the mean average precision, as COCO counts it.

    A split is as `Classification` says it, all pictures of one size; targets are dicts with `boxes`, `(n, 4)` as x0,
    y0, x1, y1 in pixels of the picture, and `labels`, `(n,)` whole numbers; n may be 0. In memory they are a list.
    Boxes follow their picture where it is augmented or resized: a network gets and gives pixels of what it sees.

    A network is called with `(n, c, height, width)` images. In train mode it is called as `model(images, targets)` and
    its losses are added up, unless `loss` is given. Where a method needs gradients of the loss in eval mode, all but
    norms and dropout is in train mode for it.
    """

    def __init__(
        self,
        *,
        classes: int,
        decode: Callable[[Any], Sequence[Mapping[str, Tensor]]] | None = None,
        loss: Callable[[Any, list[Target]], Tensor] | None = None,
        metric: Any = None,
        maximise: bool | None = None,
        iou: float | None = None,
        most: int = 100,
        **given: Unpack[ImageSettings],
    ) -> None:
        """Keep the splits where they are; what is not said here is as `Classification` says it.

        Args:
            classes: labels are below it; for a detector of torchvision's this counts the background, label 0.
            decode: from the network's outputs in eval mode to a list of dicts, one a picture, of `boxes`, `scores` and
                `labels`; None where the outputs are that.
            loss: a scalar of the network's outputs and the targets; None adds up the losses that the network gives.
            metric: in place of the mean average precision; it is updated with what `decode` gives, and the targets.
            maximise: whether more of the metric is better, where it does not say so.
            iou: the overlap from which a box counts as found; None takes the mean over 0.50, 0.55 ... 0.95.
            most: boxes of a picture, at the most.
            batch: pictures a batch; None takes a `DataLoader`'s own, or 16.

        Raises:
            TypeError: a target is no dict of boxes and labels.
            ValueError: a box that is none, a label that is no class.
        """
        for name, number in (("classes", classes), ("most", most)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} is {number!r}; expected a whole number, at least 1")
        if decode is not None and not callable(decode):
            raise TypeError(f"decode is a {type(decode).__name__}; expected a function of the network's outputs")
        if metric is not None and iou is not None:
            raise ValueError("iou is of the usual metric, and a metric was given; leave one of them out")
        if given.get("transform") is not None:
            raise ValueError("transform would move pictures without their boxes; let the dataset move both")
        settings: dict[str, Any] = dict(given)
        for name in ("train", "validation", "test"):
            if isinstance(split := settings.get(name), DataLoader | IterableDataset):
                settings[name] = _loaded(name, split, most, settings)
        if settings.get("batch") is None and not isinstance(settings["train"], DataLoader):
            settings["batch"] = 16
        images = _Pictures(most, **settings)
        if len(images.side) != 2:
            raise ValueError(f"pictures have the sides {images.side}; boxes need a height and a width")
        own = Own(loss=loss, metric=metric, maximise=maximise, output=decode)
        super().__init__(images, Boxes(classes, images.side, iou), own)
        self.error()  # refuses an iou that is none now rather than after an epoch

    @property
    def kind(self) -> str:
        """What the field calls it."""
        return "object-detection"

    def prepare(
        self, batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, list[Target]]:
        """Inputs of a batch on `device`, as a network takes them, and targets in pixels of these."""
        images, rows = super().prepare(batch, device, dtype)
        scale = [now / stored for now, stored in zip(images.shape[2:], self._images.side, strict=True)]
        return images, unpacked(rows, scale)

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Any, list[Target]]:
        """Outputs and targets of a batch; outputs are losses where the network gives them and gradients are wanted."""
        images, targets = self.prepare(batch, *self._place(model))
        if self._own.loss is not None or not torch.is_grad_enabled():
            return self._answer(model, images, targets), targets
        with _giving_losses(model):
            return self._answer(model, images, targets), targets

    def _answer(self, model: nn.Module, images: Tensor, targets: list[Target]) -> Any:
        return model(images, targets) if self._own.loss is None and model.training else model(images)

    def error(self) -> Metric:
        """A fresh error to accumulate over a split."""
        decode: Any = self._own.output
        return super().error() if decode is None else _Decoding(super().error(), decode)

    @property
    def distill(self) -> None:
        """None: boxes are learned from targets alone."""

    def _try_loss(self) -> None:
        """Nothing is known of the outputs."""


class _Pictures(Images):
    """Images whose targets are boxes, so many at the most."""

    def __init__(self, most: int, **given: Unpack[ImageSettings]) -> None:
        self.read = partial(packed, most=most)
        super().__init__(**given)


class _Decoding:
    """An error of boxes that are made of a network's outputs."""

    def __init__(self, metric: Metric, decode: Callable[[Any], Any]) -> None:
        self._metric, self._decode = metric, decode
        self.name = getattr(metric, "name", type(metric).__name__)

    @property
    def count(self) -> int:
        """Number of examples seen."""
        return self._metric.count

    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch."""
        self._metric.update(self._decode(outputs), targets)

    def compute(self) -> float:
        """The error over everything seen."""
        return self._metric.compute()

    def std(self) -> float | None:
        """The standard error, where it is known."""
        return self._metric.std()


@contextmanager
def _giving_losses(model: nn.Module) -> Iterator[None]:
    """In train mode, where a network of torchvision's kind gives its losses; norms and dropout as they are."""
    with modes_restored(model):
        if not model.training:
            for module in model.modules():
                module.training = module.training or not isinstance(module, _NormBase | _DropoutNd)
        yield


def _loaded(name: str, split: Any, most: int, settings: Mapping[str, Any]) -> DataLoader[Any]:
    """A loader whose targets are packed."""
    if isinstance(split, IterableDataset):
        loader: DataLoader[Any] = DataLoader(
            split, batch_size=settings.get("batch") or 16, num_workers=settings.get("workers") or 0
        )
    else:
        loader = copy.copy(split)
    loader.collate_fn = Collated(name, loader.collate_fn, most)
    return loader
