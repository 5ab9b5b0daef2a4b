"""A network of timm, by its name."""

import importlib
import sys

import torch

_KEPT = []  # operators last as long as the library that declares them


def importable():
    """Import torchvision, which timm needs, also beside a PyTorch without CUDA.

    torchvision 0.28 from PyPI is built for CUDA: beside a CPU-only PyTorch its operators can't be loaded, and the
    import stops at the first one. Declaring two of them is enough; what computes with them (detection) stays unusable.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        importlib.import_module("torchvision")


def network(name, channels=1, classes=10):
    """The network for grey images of ten classes, with random weights."""
    importable()
    import timm

    return timm.create_model(name, in_chans=channels, num_classes=classes)
