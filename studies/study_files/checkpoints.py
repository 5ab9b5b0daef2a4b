"""A user's own checkpoint, read without unpickling anything."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_MEND = "save it with torch.save(model.state_dict(), PATH) or safetensors.torch.save_file(model.state_dict(), PATH)"
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # put before every name by DataParallel and torch.compile
_LISTED = 5


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name in a .safetensors, .pt or .pth file, on the CPU; pickled objects are never loaded.

    A .pt or .pth file is a state dict, or a dict that holds one under "state_dict" or "model".

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a truncated file, or anything but a plain state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist or is not a file")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"checkpoint {path} is truncated or not a safetensors file ({error})") from error
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(f"checkpoint {path}: expected a file ending in .safetensors, .pt or .pth; {_MEND}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the safe loader asks for reports of pickles that it refuses
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: UnpicklingError for what is refused, IndexError and more for truncated
        raise ValueError(
            f"checkpoint {path} is truncated or holds pickled objects, and is not unpickled; {_MEND}"
        ) from error
    return _state_dict(data, path)


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Copy the tensors of the checkpoint at `path` into `model`; all of them fit, or none is copied.

    Names may carry the prefix that DataParallel or torch.compile puts before every one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a plain state dict, or names or shapes that are not the model's (the first few are listed).
    """
    tensors = read_checkpoint(path)
    expected = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    while not tensors.keys() & expected.keys() and (prefix := _common_prefix(tensors)):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    wrong = [
        f"{name} is {list(tensors[name].shape)}, the model's {list(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    complaints = [
        _listed("missing", [name for name in expected if name not in tensors and not _derived(name, expected)]),
        _listed("unexpected", [name for name in tensors if name not in expected]),
        _listed("of another shape", wrong),
    ]
    if any(complaints):
        raise ValueError(f"checkpoint {path} does not fit the model: {'; '.join(filter(None, complaints))}")
    model.load_state_dict(tensors, strict=False)


def _common_prefix(tensors: Mapping[str, Tensor]) -> str:
    return next((prefix for prefix in _PREFIXES if tensors and all(name.startswith(prefix) for name in tensors)), "")


def _derived(name: str, expected: Mapping[str, Tensor]) -> bool:
    """Whether it is a batch counter: checkpoints older than torch 0.4.1 lack them, and only training reads them."""
    return name.endswith("num_batches_tracked") and expected[name].ndim == 0


def _state_dict(data: object, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(wrapper), Mapping):
            data = data[wrapper]
            break
    if not isinstance(data, Mapping) or not data:
        raise ValueError(f"checkpoint {path} holds a {type(data).__name__}, expected a plain state dict; {_MEND}")
    strange = [str(name) for name, value in data.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strange:
        raise ValueError(
            f"checkpoint {path} is not a plain state dict: {_listed('not tensors', strange)}; {_MEND}, "
            f'or put the state dict under "state_dict" or "model"'
        )
    return {str(name): value.detach() for name, value in data.items()}


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what}: {', '.join(names[:_LISTED])}{more}"
