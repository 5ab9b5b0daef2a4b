"""Numbers that describe channels beside the layers: some libraries keep them, and code of theirs reads them.

Known by what they have, not by their class: no library is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Description:
    """An attribute of a module that is the size of a tensor's axis, or a whole part of it."""

    module: str
    name: str
    tensor: str
    axis: int


def descriptions(model: nn.Module) -> Iterator[Description]:
    """The attributes of a network's modules that are known to describe channels."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if hasattr(module, "forward_split"):  # Ultralytics': its exporter calls that, which splits into two of `c`
            yield Description(path, "c", f"{prefix}cv1.conv.weight", 0)
        if callable(getattr(module, "get_classifier", None)):  # timm's
            names = {id(one): name for name, one in module.named_modules()}
            try:
                head = f"{prefix}{names.get(id(module.get_classifier()))}.weight"
            except AttributeError:  # an encoder that was left without the head that it names
                continue
            inner = getattr(module, "num_features", None) != getattr(module, "head_hidden_size", None)
            yield Description(path, "head_hidden_size", head, 1)
            yield Description(path, "num_features", f"{prefix}conv_head.weight" if inner else head, 1)
