"""A pruned network on disk: `write_model` writes a folder that proves itself, `load` reads it back.

A folder holds `config.json` (what was cut, so that loading needs no trace), `model.safetensors`, `model.pt2`,
`model.onnx` where the `onnx` extra is installed, and a `README.md` card; docs/formats.md describes every field. It
appears under its name only after each format was read back from the disk and compared with the network in memory.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ... import __version__
from ...spaces import Candidate, Cut, Scores, Space, assemble, copied, cut, forget, named_tensors
from ...spaces.graph.network import Examples
from ...spaces.graph.standin import is_gives
from ..disk.files import FormatError, new_folder, read_json, write
from .card import card, check_notes
from .conversion import Programs, Wanted
from .digests import check, seal
from .program import read_program
from .taking import Taking
from .verification import Verification, called

__all__ = ["FormatError", "load", "save", "write_model"]

FORMAT = "secateur-model"
VERSION = 1


def write_model(
    folder: str | Path,
    *,
    model: nn.Module,
    full: nn.Module,
    example: Examples,
    cut: Cut,
    record: Mapping[str, Any],
    wanted: Wanted | None = None,
) -> dict[str, Any]:
    """Write `model` as the new folder `folder`, verified; the figures of the verification.

    Args:
        folder: where to; must not exist.
        model: the trained, small network; it is exported in eval mode on the CPU and left as it is.
        full: the network that it was cut from; only its class and shapes matter.
        example: inputs of `model` with a batch of 2: a tensor, a tuple (positional) or a dict (by name) of tensors.
        cut: what was cut from `full`.
        record: more for config.json, as JSON: candidate, costs, errors, preprocessing, resolution, fingerprint, ...
        wanted: formats, and what programs take; all formats, with the network's own inputs, when None.

    Returns:
        `{"tolerance", "batches", format: {batch: difference / largest output, "fixed_batch"}}`, or of a format that is
        left out `{"left_out": reason}`: as in config.json["verified"].

    Raises:
        FileExistsError: `folder` exists.
        ValueError: an unknown format, ONNX without the extra, or the network cannot be exported to a named format.
        RuntimeError: a format gives other outputs than the network in memory.
        OSError: the disk is full or read-only. Nothing is left in any of these cases.
    """
    wanted = wanted or Wanted()
    wanted.check()
    network = copied(model).cpu().eval().requires_grad_(False)
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
        "gives": cut.gives,
        "attributes": cut.attributes,
        "numbers": cut.numbers,
        "keeping": [list(place) for place in cut.keeping],
        "full_shapes": {name: list(tensor.shape) for name, tensor in named_tensors(full).items()},
        "shapes": {name: list(tensor.shape) for name, tensor in named_tensors(network).items()},
        "aliases": aliases,
        "as_graph": cut.as_graph,
        "kept": {name: {str(axis): kept.tolist() for axis, kept in axes.items()} for name, axes in cut.kept.items()},
    }
    taking, sides = wanted.taking(network, example, record)
    config |= {"pictures": wanted.pictures, "any_side": wanted.any_side}
    with new_folder(Path(folder)) as aside:
        figures = Verification(Taking(network, example))
        with figures.timed("safetensors"):
            write(aside / "model.safetensors", to_bytes(tensors, metadata={"format": "pt"}))
            seal(aside, config)
            figures.compare("safetensors", called(load(aside, full).cpu()))
        asked = Verification(taking, sides) if wanted.pictures or sides else figures
        programs = Programs(taking, asked, any_side=wanted.any_side)
        for name in wanted.names():
            with asked.timed(name):
                programs.write(aside / f"model.{name}", _metadata(config), required=wanted.required)
        config["verified"] = figures.found = figures.found | asked.found
        write(aside / "README.md", card(config, [path.name for path in aside.iterdir()]))
        seal(aside, config | ({"operators": programs.operators} if programs.operators else {}))
    return figures.found


def save(
    folder: str | Path,
    network: nn.Module,
    *,
    model: nn.Module,
    space: Space,
    candidate: Candidate,
    scores: Scores | None = None,
    formats: Sequence[str] | None = None,
    pictures: bool = False,
    any_side: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a network that `build` made, trained or not, as the new folder `folder`; `load` gives it back.

    Args:
        folder: where to; must not exist.
        network: what `build(model, space, candidate, scores)` gave; it is exported in eval mode and left as it is.
        model: the full network; only its class and shapes matter.
        space: the traced space.
        candidate: of the network.
        scores: that it was built with.
        formats: some of `"safetensors"` (always written), `"pt2"` and `"onnx"`; all that can be when None.
        pictures: the programs (`"pt2"`, `"onnx"`) take pictures, uint8 `(batch, *side, channels)` of 0..255, and scale
            and normalise them as `notes["preprocessing"]` says: `scale`, `mean` and `std`.
        any_side: the programs take every side that the network takes.
        notes: further entries of config.json, plain values by name, such as `preprocessing` or `errors`; the card
            names `license` and `dataset` to the Hugging Face Hub.

    Returns:
        How far each format's outputs are from the network's: see `write_model`, as for the errors.

    Raises:
        TypeError: `network` is no module.
        ValueError: `network` has not the shapes of the candidate, a named format cannot be written, or a licence is no
            text.
    """
    check_notes(notes or {})
    if not isinstance(network, nn.Module):
        raise TypeError(f"network is a {type(network).__name__}; expected the torch.nn.Module that build made")
    candidate = space.canonical(candidate)
    changes = cut(space, candidate, scores)
    _check_cut(network, model, changes)
    costs = {name: float(column[0]) for name, column in space.cost_table([candidate]).items()}
    own = record_of(space, candidate) | {"costs": costs} | dict(notes or {})
    example = space.inputs(model, candidate, batch=2)
    wanted = Wanted(formats, pictures, any_side)
    return write_model(folder, model=network, full=model, example=example, cut=changes, record=own, wanted=wanted)


def record_of(space: Space, candidate: Candidate) -> dict[str, Any]:
    """What config.json says of a candidate beside what was cut."""
    return {
        "key": candidate.key,
        "candidate": list(candidate),
        "axes": [axis.name for axis in space.axes],
        "resolution": list(space.side(candidate)) or None,
        "side_multiple": space.side_multiple,
        "full_costs": dict(space.full_costs),
        "space": space.settings,
    }


def load(folder: str | Path, model: nn.Module | None = None, *, operators: Collection[str] = ()) -> nn.Module:
    """The network that was exported to `folder`, with its weights, in eval mode; nothing is unpickled.

    Args:
        folder: an exported folder.
        model: the full network, made by the user's own code, with any weights: the result is of its class and on its
            device, and can be trained. None: the exported program, which needs no code; it runs on the CPU, in eval.
            A network that was rebuilt as a graph (`as_graph`) is traced and rebuilt so; one without the settings of its
            space, as older exports are, is loaded as its program.
        operators: operators of libraries that a program may call besides torch's own, such as `"torchvision::nms"`; an
            operator may be any code, so name those of exports that you trust.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        FormatError: not an export, of a newer version, truncated or edited (a digest of every file says so), or not
            safe to load.
        ValueError: `model` is not the network that was cut.
    """
    folder = Path(folder)
    config = read_config(folder)
    if model is None or (config.get("as_graph") and "space" not in config):
        left_out = config.get("verified", {}).get("pt2", {"left_out": "it was not asked for"}).get("left_out")
        if left_out and not (folder / "model.pt2").exists():
            raise FileNotFoundError(f"{folder} holds no program ({left_out}); give the full network: load(..., model=)")
        return read_program(folder / "model.pt2", operators)
    _check_model(model, config, folder)
    tensors = _read_tensors(folder, config)
    full = named_tensors(model)
    placed = {name: tensor.to(full[name].device) if name in full else tensor for name, tensor in tensors.items()}
    placed |= {name: placed[first] for name, first in config["aliases"].items()}
    try:
        if config.get("as_graph"):
            return _graph(model, placed, config).eval()
        _check_counters(model, config["attributes"])
        gives, numbers = config.get("gives"), config.get("numbers")
        small = assemble(model, placed, config["attributes"], config["removed"], gives, numbers)
        forget(small, config.get("keeping") or ())
        return small.eval()
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise FormatError(f"{folder / 'config.json'} does not fit {type(model).__name__} ({error})") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of an exported folder, whose files are what was exported; errors are those of `load`."""
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
        "gives": lambda value: value is None or _dict_of(is_gives)(value),
        "numbers": lambda value: value is None or _dict_of(_is_numbers)(value),
        "keeping": lambda value: value is None or all(_list_of(str)(one) and len(one) == 2 for one in value),
    }
    for key, valid in kinds.items():
        if not valid(config.get(key)):
            raise FormatError(f"{path}: {key!r} is missing or malformed: it was edited; export again")
    check(folder, config)
    return config


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_numbers(value: Any) -> bool:
    """Whether a value says which numbers the calls of a forward are given."""
    number = _dict_of(lambda one: isinstance(one, (int, float)))
    named = ("scale",)
    return _dict_of(lambda places: number(places) and all(one.isdecimal() or one in named for one in places))(value)


def _dict_of(valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(valid(item) for item in value.values())


def _check_model(model: nn.Module, config: Mapping[str, Any], folder: Path) -> None:
    """Raise a ValueError where the network is another one; a forward may make buffers larger, which is none."""
    recorded: dict[str, list[int]] = config["full_shapes"]
    whole = {name for name, _ in model.named_buffers()} & recorded.keys() - config["kept"].keys()
    own = {name: list(tensor.shape) for name, tensor in named_tensors(model).items()}
    wrong = [
        f"{name} is {own.get(name, 'missing')}, was {recorded.get(name, 'missing')}"
        for name in [*recorded, *(own.keys() - recorded.keys())]
        if own.get(name) != recorded.get(name) and not (name in whole and len(own[name]) == len(recorded[name]))
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{type(model).__name__} is not the full network that {folder} was cut from: {'; '.join(wrong[:3])}{more}; "
            "make the model as it was made for the study"
        )


def _check_counters(model: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a TypeError where what is to be set counts no channels: a forward, a hook, a table of modules."""
    for name, values in attributes.items():
        for attribute in values:
            own = getattr(model.get_submodule(name), attribute)
            if not all(isinstance(one, int) for one in (own if isinstance(own, (tuple, list)) else (own,))):
                raise TypeError(f"{name}.{attribute} is a {type(own).__name__}, which counts nothing")


def _check_cut(network: nn.Module, model: nn.Module, changes: Cut) -> None:
    gone = tuple(f"{name}." for name in changes.removed)
    wanted = {
        name: [len(changes.kept.get(name, {}).get(axis, range(size))) for axis, size in enumerate(tensor.shape)]
        for name, tensor in named_tensors(model).items()
        if not name.startswith(gone)
    }
    own = {name: list(tensor.shape) for name, tensor in named_tensors(network).items()}
    wrong = [name for name in [*wanted, *(own.keys() - wanted.keys())] if own.get(name) != wanted.get(name)]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"the network is not that of the candidate: {name} is {own.get(name, 'missing')}, the candidate's is "
            f"{wanted.get(name, 'missing')}; give the space, candidate and scores that it was built with"
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


def _graph(model: nn.Module, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """The network that was cut as a graph, rebuilt: traced as its space was, with the channels that were kept."""
    space = Space.from_settings(model, config["space"])
    assert space.writer is not None  # of a graph
    kept = np.ones(space.units, bool)
    for name, axes in space.slots.items():
        for axis, units in axes.items():
            stay = config["kept"].get(name, {}).get(str(axis))
            if stay is not None:
                kept[np.delete(units, stay)] = False
    return space.writer.module(model, tensors, kept, config["removed"])


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


def _metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """What an ONNX file says of itself: texts, JSON where they are more than one word."""
    said = {name: config[name] for name in ("key", "class", "resolution", "preprocessing", "study") if config.get(name)}
    if config["pictures"]:
        said["inputs"] = "uint8 pictures (batch, *side, channels) of 0..255; scale, mean and std are in the program"
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}
    return {f"secateur.{name}": text for name, text in {"version": __version__, **texts}.items()}


def _described(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return {
        "shape": ["batch", *value.shape[1:]] if value.ndim else [],
        "dtype": str(value.dtype).removeprefix("torch."),
    }
