"""A pruned network on disk: `write_model` writes a folder that proves itself, `load` reads it back.

A folder holds `config.json` (what was cut, so that loading needs no trace), `model.safetensors`, `model.pt2`,
`model.onnx` where the `onnx` extra is installed, and a `README.md` card; docs/formats.md describes every field. It
appears under its name only after each format was read back from the disk and compared with the network in memory.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ... import __version__
from ...spaces import Cut, assemble, named_tensors
from ..disk.files import FormatError, new_folder, read_json, to_json, write
from .card import card
from .conversion import ONNX_PACKAGES, export_program, onnx_installed, program_bytes, write_onnx
from .program import read_program
from .verification import Example, Verification, called

__all__ = ["FormatError", "load", "write_model"]

FORMAT = "secateur-model"
VERSION = 1


def write_model(
    folder: str | Path,
    *,
    model: nn.Module,
    full: nn.Module,
    example: Example,
    cut: Cut,
    record: Mapping[str, Any],
    onnx: bool | None = None,
) -> dict[str, Any]:
    """Write `model` as the new folder `folder`, verified; the figures of the verification.

    Args:
        folder: where to; must not exist.
        model: the trained, small network; it is exported in eval mode on the CPU and left as it is.
        full: the network that it was cut from; only its class and shapes matter.
        example: inputs of `model` with a batch of 2: a tensor, a tuple (positional) or a dict (by name) of tensors.
        cut: what was cut from `full`.
        record: more for config.json, as JSON: candidate, costs, errors, preprocessing, resolution, fingerprint, ...
        onnx: whether to write model.onnx; None: where the extra is installed and the network can be converted.

    Returns:
        `{"tolerance", "batches", format: {batch: difference / largest output}}`, as in config.json["verified"].

    Raises:
        FileExistsError: `folder` exists.
        ValueError: `onnx=True` without the extra, or the network cannot be exported with a free batch.
        RuntimeError: a format gives other outputs than the network in memory.
        OSError: the disk is full or read-only. Nothing is left in any of these cases.
    """
    if onnx and not onnx_installed():
        raise ValueError(f"onnx=True needs {', '.join(ONNX_PACKAGES)}: pip install 'secateur[onnx]', or leave onnx out")
    network = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    example = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), example)
    tensors, aliases = _own_storage(named_tensors(network))
    config = {
        "format": FORMAT,
        "format_version": VERSION,
        **record,
        "class": f"{type(full).__module__}.{type(full).__qualname__}",
        "dtype": _dtype_name(tensors),
        "versions": {"secateur": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "inputs": pytree.tree_map(_described, example),
        "removed": list(cut.removed),
        "attributes": cut.attributes,
        "full_shapes": {name: list(tensor.shape) for name, tensor in named_tensors(full).items()},
        "shapes": {name: list(tensor.shape) for name, tensor in named_tensors(network).items()},
        "aliases": aliases,
        "as_graph": cut.as_graph,
        "kept": {name: {str(axis): kept.tolist() for axis, kept in axes.items()} for name, axes in cut.kept.items()},
    }
    with new_folder(Path(folder)) as aside:
        figures = Verification(network, example)
        write(aside / "config.json", to_json(config))
        with figures.timed("safetensors"):
            write(aside / "model.safetensors", save(tensors, metadata={"format": "pt"}))
            figures.compare("safetensors", called(_read_back(aside, config, network, full)))
        with figures.timed("pt2"):
            program = export_program(network, example)
            write(aside / "model.pt2", program_bytes(program))
            figures.compare("pt2", called(read_program(aside / "model.pt2")))
        if onnx or (onnx is None and onnx_installed()):
            with figures.timed("onnx"):
                write_onnx(aside / "model.onnx", program, example, figures, required=bool(onnx))
        config["verified"] = figures.found
        write(aside / "config.json", to_json(config))
        write(aside / "README.md", card(config, [path.name for path in aside.iterdir()]))
    return figures.found


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The network that was exported to `folder`, with its weights, in eval mode; nothing is unpickled.

    Args:
        folder: an exported folder.
        model: the full network, made by the user's own code, with any weights: the result is of its class and on its
            device, and can be trained. None: the exported program, which needs no code; it runs on the CPU, in eval.
            A network that was rebuilt as a graph (`as_graph`) is always loaded as its program.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        FormatError: not an export, of a newer version, truncated or edited, or not safe to load.
        ValueError: `model` is not the network that was cut.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if model is None or config.get("as_graph"):
        return read_program(folder / "model.pt2")
    _check_model(model, config["full_shapes"], folder)
    tensors = _read_tensors(folder, config)
    full = named_tensors(model)
    placed = {name: tensor.to(full[name].device) if name in full else tensor for name, tensor in tensors.items()}
    placed |= {name: placed[first] for name, first in config["aliases"].items()}
    try:
        return assemble(model, placed, config["attributes"], config["removed"]).eval()
    except (TypeError, AttributeError) as error:
        raise FormatError(f"{folder / 'config.json'} does not fit {type(model).__name__} ({error})") from error


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"export folder {folder} does not exist or is not a folder")
    path = folder / "config.json"
    if not path.is_file():
        raise FormatError(f"{folder} is not an exported network: it holds no config.json")
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise FormatError(f"{path} is not of an exported network: its format is {config.get('format')!r}")
    number = config.get("format_version")
    if not isinstance(number, int) or number > VERSION:
        raise FormatError(
            f"{path} has format version {number!r}, and secateur {__version__} reads up to {VERSION}; upgrade secateur"
        )
    shape = _list_of(int)
    kinds: dict[str, Callable[[Any], bool]] = {
        "full_shapes": _dict_of(shape),
        "shapes": _dict_of(shape),
        "aliases": _dict_of(lambda value: isinstance(value, str)),
        "attributes": _dict_of(_dict_of(lambda value: isinstance(value, (int, float)) or shape(value))),
        "removed": _list_of(str),
    }
    for key, valid in kinds.items():
        if not valid(config.get(key)):
            raise FormatError(f"{path}: {key!r} is missing or malformed: it was edited; export again")
    return config


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _dict_of(valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(valid(item) for item in value.values())


def _check_model(model: nn.Module, recorded: dict[str, list[int]], folder: Path) -> None:
    own = {name: list(tensor.shape) for name, tensor in named_tensors(model).items()}
    wrong = [
        f"{name} is {own.get(name, 'missing')}, was {recorded.get(name, 'missing')}"
        for name in [*recorded, *(own.keys() - recorded.keys())]
        if own.get(name) != recorded.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{type(model).__name__} is not the full network that {folder} was cut from: {'; '.join(wrong[:3])}{more}; "
            "make the model as it was made for the study"
        )


def _read_tensors(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; export again")
    try:
        tensors = dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is truncated or not a safetensors file ({error}); export again") from error
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    aliases = config["aliases"]
    wanted = {name: shape for name, shape in config["shapes"].items() if name not in aliases}
    if found != wanted or not set(aliases.values()) <= found.keys() or not aliases.keys() <= config["shapes"].keys():
        wrong = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
        raise FormatError(
            f"{path} and config.json are not of one export: they differ in "
            f"{', '.join(wrong[:3]) or 'shared tensors'}; export again"
        )
    return tensors


def _read_back(folder: Path, config: dict[str, Any], network: nn.Module, full: nn.Module) -> nn.Module:
    """The network as its safetensors file holds it; of a graph a copy with all tensors from the file."""
    if not config["as_graph"]:
        return load(folder, full).cpu()
    twin, tensors = copy.deepcopy(network), _read_tensors(folder, config)
    with torch.no_grad():
        for name, tensor in named_tensors(twin).items():
            tensor.fill_(0)
            if name in tensors:
                tensor.copy_(tensors[name])
    return twin


def _own_storage(named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Make every tensor contiguous, in memory of its own: each once, and `{other name: first name}` of shared ones."""
    first: dict[int, str] = {}
    memory: set[int] = set()
    tensors, aliases = {}, {}
    for name, tensor in named.items():
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        data = tensor.detach().contiguous()
        storage = data.untyped_storage()
        if storage.data_ptr() in memory or storage.nbytes() != data.numel() * data.element_size():
            data = data.clone()
        memory.add(data.untyped_storage().data_ptr())
        tensor.data = tensors[name] = data
    return tensors, aliases


def _dtype_name(tensors: Mapping[str, Tensor]) -> str:
    kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.is_floating_point()]
    return max(set(kinds), key=lambda kind: (kinds.count(kind), kind), default="float32")


def _described(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return {"shape": ["batch", *value.shape[1:]], "dtype": str(value.dtype).removeprefix("torch.")}
