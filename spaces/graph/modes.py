"""The modes a forward is captured in: eval, without fused kernels, without warnings."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .attention import MultiheadAttention, by_weights
from .network import plain, unknown_leaves

_TRAINED = {
    functional.batch_norm,
    functional.multi_head_attention_forward,
    functional.rrelu,
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
}


@contextlib.contextmanager
def evaluating(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """The model in eval mode; each module's own flag, and what its forward keeps in attributes, is put back.

    Args:
        model: the network.
        training: in training mode instead, but for what PyTorch's own functions do otherwise there.
    """
    flags = [(module, module.training) for module in model.modules()]
    with keeping(model):
        switch(model, training=training)
        try:
            with unfused(), Still() if training else contextlib.nullcontext():
                yield
        finally:
            for module, flag in flags:
                module.training = flag


def switch(model: nn.Module, *, training: bool) -> None:
    """Put a network in eval mode, or in training but for PyTorch's own layers: only the user's forwards branch."""
    model.train(training)
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn.") or isinstance(module, MultiheadAttention):
            module.training = False


Kept = dict[str, tuple[Any, Any]]
"""Attributes of a module by name, each with a copy of its contents where it is a list or a dictionary."""
REGISTERED = {"_buffers", "_forward_hooks", "_forward_pre_hooks"}
"""What PyTorch's modules hold that a forward may register."""
_INTERNAL = vars(nn.Module()).keys() - REGISTERED


@contextlib.contextmanager
def keeping(model: nn.Module) -> Iterator[None]:
    """What forwards leave in attributes of modules is put back: a traced one may leave tensors without values."""
    kept = [(module, attributes(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, before in kept:
            restore(module, before)


def attributes(module: nn.Module) -> Kept:
    """What a forward may change: attributes that are not PyTorch's own, and which buffers and hooks there are."""
    return {
        name: (value, value.copy() if isinstance(value, (list, dict)) else None)
        for name, value in vars(module).items()
        if name not in _INTERNAL
    }


def restore(module: nn.Module, before: Kept) -> None:
    """Give a module these attributes, and no others."""
    held = module.__dict__
    for name in [name for name in held if name not in _INTERNAL and name not in before]:
        del held[name]
    for name, (value, contents) in before.items():
        held[name] = value
        if isinstance(value, list):
            value[:] = contents
        elif isinstance(value, dict) and [*map(id, _flat(value))] != [*map(id, _flat(contents))]:  # a frozen one is not
            value.clear()
            value.update(contents)


def _flat(entries: dict[Any, Any]) -> list[Any]:
    return [*entries, *entries.values()]


@contextlib.contextmanager
def returning_plainly(model: nn.Module) -> Iterator[None]:
    """The model gives dicts in the place of dataclasses and mappings that an export does not know."""
    hook = model.register_forward_hook(lambda _, given, result: plain(result) if unknown_leaves(result) else result)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what PyTorch says of failures that are expected: its warnings, logs and prints."""
    names = ("torch._subclasses", "torch._subclasses.fake_tensor", "torch.export", "torch._dynamo", "torch.fx")
    loggers = [logger for logger in map(logging.getLogger, names) if logger.level <= logging.CRITICAL]
    levels = [logger.level for logger in loggers]
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without looking for garbage: many small objects are made, and each full look goes through all that is loaded."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Without the fused inference kernels of transformer layers, which hide the operators they stand for.

    Attention takes its sizes from its weights, as it does in a network that lost heads.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with by_weights():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def fixing() -> Iterator[dict[Any, list[tuple[str, Any]]]]:
    """While a forward is exported: by symbol of a size that becomes a number, the places of the call that fixes it."""
    found: dict[Any, list[tuple[str, Any]]] = {}
    within, own = len(traceback.extract_stack()), ShapeEnv._set_replacement

    def noted(self: ShapeEnv, symbol: Any, value: Any, said: str) -> None:
        if not value.free_symbols:
            found.setdefault(symbol, [(one.filename, one.lineno) for one in traceback.extract_stack()[within:]])
        own(self, symbol, value, said)

    with mock.patch.object(ShapeEnv, "_set_replacement", noted):
        yield found


class Still(TorchFunctionMode):
    """Dropouts and norms of a network in training mode do as in eval mode: only the forward's own branches differ."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, or do without its training."""
        kwargs = kwargs or {}
        if func in _TRAINED:
            call = inspect.signature(func).bind(*args, **kwargs)
            if func is not functional.batch_norm or call.arguments["running_mean"] is not None:
                call.arguments["training"] = False
            args, kwargs = call.args, call.kwargs
        return func(*args, **kwargs)


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]


class DataAsDetached(TorchFunctionMode):
    """Reads `tensor.data` as `tensor.detach()`: torch 2.13's export takes the former for a constant."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, or its stand-in."""
        if func == _DATA:
            return args[0].detach()
        return func(*args, **(kwargs or {}))


DRAWS = set(
    "rand randn rand_like randn_like randint randint_like randperm normal normal_functional uniform bernoulli "
    "exponential log_normal cauchy geometric multinomial poisson random".split()
)
"""Names of operators that draw random numbers, without the line of those that draw in place."""


class DrawnAlike(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What a forward draws is the same each time, and for each channel, so that networks of other widths draw it too.

    Numbers are one half in the place of random ones; whole numbers, such as an order, come from one seed.

    Args:
        devices: whose generators may be seeded, beside the processor's; those of other devices stay as they are.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generators = [torch.default_generator, *(torch.cuda.default_generators[one.index] for one in devices)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator; if it draws, from one seed, and what it drew becomes a constant."""
        if func.overloadpacket.__name__.rstrip("_") not in DRAWS:
            return func(*args, **(kwargs or {}))
        for generator in self._generators:
            generator.manual_seed(0)
        drawn = func(*args, **(kwargs or {}))
        return drawn.fill_(0.5) if drawn.is_floating_point() else drawn
