"""The weights a study starts from, kept in its folder, recognised by digest; and a training that survives a kill."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...evaluators import Loop
from ...spaces import copied
from .files import FormatError, write_atomic

ModelSource = nn.Module | Callable[[], nn.Module]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal digest of names, shapes, dtypes and every value."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def structure(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """`{name: "dtype (shape)"}`: what two models must share to exchange weights."""
    return {name: f"{_short(tensor.dtype)} {tuple(tensor.shape)}" for name, tensor in sorted(tensors.items())}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers as copies on the CPU; what is not a tensor is left out."""
    found = model.state_dict()
    return {
        name: value.detach().cpu().clone().contiguous() for name, value in found.items() if isinstance(value, Tensor)
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Save as safetensors; tensors that share memory are saved apart."""
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})


def read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    """The tensors in a file whose digest, or how it begins, is known.

    Raises:
        ValueError: the file is missing, truncated, or holds other tensors.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; restore it from a copy or start a new study") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy or start a new study") from error
    if not expected or not digest(tensors).startswith(expected):
        raise ValueError(f"{path} holds other tensors than the study wrote; restore it or start a new study")
    return tensors


def read_described(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a file, and what was written beside them.

    Raises:
        ValueError: the file is missing or damaged.
    """
    with _opened(path) as file:
        tensors, said = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    if "digest" in said and digest(tensors) != said["digest"]:
        raise ValueError(
            f"{path} holds other tensors than the study wrote; restore it from a copy or start a new study"
        )
    return tensors, said


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; restore it from a copy or start a new study") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy or start a new study") from error


def read_description(path: Path) -> dict[str, str]:
    """What was written beside the tensors in a file, which are not read.

    Raises:
        ValueError: the file is missing or damaged.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def with_kept_weights(source: ModelSource, kept: Mapping[str, Tensor]) -> nn.Module:
    """The full network with the weights that a study keeps.

    Args:
        source: a model that has these weights, or a function without arguments that makes one, which is given them.
        kept: the study's base weights.

    Raises:
        ValueError: another architecture, or a model with other weights.
        TypeError: neither a module nor a function that returns one.
    """
    given = isinstance(source, nn.Module)
    model = source if isinstance(source, nn.Module) else source() if callable(source) else source
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module or a function that makes one")
    tensors = state_of(model)
    _same_structure(structure(kept), structure(tensors))
    if not given:
        model.load_state_dict(dict(kept), strict=False)  # what is not a tensor stays as the function made it
        return model
    other = [name for name in sorted(kept) if not torch.equal(kept[name], tensors[name])]
    if other:
        raise ValueError(
            f"the model's weights differ from the study's base weights ({_some(other)}); a study refuses other weights "
            "than it started from: load its base.safetensors into the model, or pass a function that makes the model"
        )
    return copied(model)


def _same_structure(kept: Mapping[str, str], given: Mapping[str, str]) -> None:
    missing = [name for name in kept if name not in given]
    extra = [name for name in given if name not in kept]
    changed = [
        f"{name}: {given[name]} given, {kept[name]} kept" for name in kept if given.get(name, kept[name]) != kept[name]
    ]
    said = [f"lacks {_some(missing)}"] * bool(missing) + [f"adds {_some(extra)}"] * bool(extra)
    said += [f"differs in {_some(changed)}"] * bool(changed)
    if said:
        raise ValueError(f"the model is not the one this study was made with: it {', '.join(said)}; give the same one")


def _some(names: list[str]) -> str:
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class TrainingCheckpoint:
    """Keeps a training's state after every epoch, so that a killed one goes on from there."""

    def __init__(self, path: Path) -> None:
        """Keep it in the file `path`."""
        self._path = path

    def after_epoch(self, loop: Loop) -> None:
        """Write the state, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(loop.state(), buffer)
        write_atomic(self._path, buffer.getvalue())

    def kept(self) -> dict[str, Any] | None:
        """The state after the last whole epoch, if there is one."""
        if not self._path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(self._path, weights_only=True)
        except Exception as error:  # torch.load raises almost anything on a damaged file
            raise FormatError(f"{self._path} is damaged ({error}); remove it to train that network again") from error
        return found
