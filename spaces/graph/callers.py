"""In which modules a node of the graph was called."""

from __future__ import annotations

import re

from torch import nn
from torch.fx import Node

_SLICE = re.compile(r"((^|\.)slice\([^()]*\))+\.(?P<item>\d+)")


def callers(node: Node, model: nn.Module) -> list[str]:
    """Paths of the modules that a node was called in, outermost first; `path@1` is the second call of a module."""
    return [_unsliced(path, model) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def _unsliced(path: str, model: nn.Module) -> str:
    """The path of a module that the forward took out of a slice of its parent.

    Torch 2.13 writes `blocks.slice(1, None, None).0` for it where modules are shared; a `ModuleList` counts its slice
    anew, a `Sequential` does not.
    """
    found = _SLICE.search(path)
    if found is None:
        return path
    parent, item = model.get_submodule(path[: found.start()]), found["item"]
    if isinstance(parent, nn.ModuleList):
        left = range(len(parent))
        for bounds in re.findall(r"slice\((.*?), (.*?), (.*?)\)", found[0]):
            left = left[slice(*(None if bound == "None" else int(bound) for bound in bounds))]
        item = str(left[int(item)])
    name = f"{path[: found.start()]}.{item}{path[found.end() :]}"
    return _unsliced(name.removeprefix("."), model)
