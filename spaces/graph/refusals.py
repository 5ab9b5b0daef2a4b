"""Why a network cannot be captured: sentences that name the user's own line, and the way out."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .network import BATCH, PYTORCH, flat_examples, plain, unknown_leaves

MEND = (
    "the forward must not branch on the values of tensors nor depend on Python state; rewrite that line with tensor "
    "operations, or trace the part of the network that needs pruning"
)
_OTHERWISE = (
    "it runs when it is not exported, so it does something else then, as transformers' forwards do that are given no "
    "mask; give it what it would make itself, such as attention_mask, or trace the part of the network that needs "
    "pruning"
)
_OWN = (TypeError, AttributeError, LookupError, NameError)  # that the tools of an export do not raise of themselves
_ROOM = str(Path(__file__).parents[1])  # our own frames, which no message names


def refusal(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What to say where the network does not take the examples at all, or gives what is no tensor; else nothing."""
    try:
        odd = unknown_leaves(plain(model(*args, **kwargs)))
    except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in flat_examples(kwargs or args))
        said = " ".join(f"{type(error).__name__}: {error}".split("\n", 1)[0].split())
        return (
            f"{type(model).__name__} does not take a batch of {BATCH} made of example_inputs, {shapes}: "
            f"{said}{_place(error)}; give one as its forward takes it, the batch first: (1, channels, *sides)"
        )
    if odd:
        return (
            f"{type(model).__name__} returns a {type(odd[0]).__name__}; expected tensors and plain values, in tuples, "
            "lists, dicts, mappings and dataclasses; return its tensors, or trace the part of the network before it"
            f"{of_cache(odd[0])}"
        )
    return ""


def of_cache(value: Any) -> str:
    """What to say beside where something is a cache of keys and values, as decoders of transformers take and give."""
    return "; decoders give and take no cache with use_cache=False" if "Cache" in type(value).__name__ else ""


def explained(model: nn.Module, failure: Exception | None) -> str:
    """What to say of a forward that `torch.export` does not take."""
    text, place = str(failure).strip().splitlines(), _place(failure)
    shapes = type(failure) is RuntimeError and re.search(
        "broadcast|shape|size of tensor|Sizes of tensors", str(failure)
    )
    mend = _OTHERWISE if place and (isinstance(failure, _OWN) or shapes) else MEND
    return (
        f"torch.export cannot follow {type(model).__name__}{place}: "
        f"{text[0] if text else type(failure).__name__}. {mend}"
    )


def _place(failure: Exception | None) -> str:
    """Where a failure comes from in the user's own code, as ` at FILE:LINE`; nothing where it does not."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', str(failure))
    frames += [(one.filename, one.lineno) for one in traceback.extract_tb(failure.__traceback__ if failure else None)]
    return line(frames)


def line(frames: Sequence[tuple[str, Any]]) -> str:
    """The last of these places, of file and line, that is the user's own."""
    users = [f"{name}:{line}" for name, line in frames if not PYTORCH.search(name) and not name.startswith(_ROOM)]
    return f" at {users[-1]}" if users else ""
