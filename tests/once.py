"""What hundreds of tests would do again and again, done once a process: what they test begins behind it.

Nothing else is left out: a network, database or toy that was not met before, or gave a warning, goes the whole way.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch.utils import _pytree as pytree

from secateur import Space
from secateur.studies.drivers import making
from secateur.studies.exports import conversion, ready
from secateur.testing import toys


@contextmanager
def each_once():
    """Once each: an export is tried, a toy or tiny network traced, Optuna's versions read, ONNX's operators listed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "rehearse", _rehearsed(making.rehearse))
        patch.setattr(Space, "from_settings", _reopened(Space.from_settings))
        patch.setattr(Space, "trace", _traced(Space.trace))
        _versions(patch)
        _operators(patch)
        yield


def _rehearsed(rehearse):
    done = set()

    def once(model, example):
        shapes = [(leaf.shape, leaf.dtype) for leaf in pytree.tree_leaves(example) if isinstance(leaf, torch.Tensor)]
        kind = (type(model), repr(model), str(shapes))
        if kind not in done:
            with _heard() as records:
                rehearse(model, example)
            if not records:
                done.add(kind)

    return once


@contextmanager
def _heard():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("secateur").addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger("secateur").removeHandler(handler)


def _reopened(from_settings):
    known = {}

    def once(model, settings):
        if type(model).__module__ != toys.__name__:
            return from_settings(model, settings)
        kind = (_network(model), json.dumps(settings, default=repr))
        if kind not in known:
            known[kind] = from_settings(model, settings)
        return known[kind]

    return staticmethod(once)


def _traced(trace):
    """Not where tracing itself is tested."""
    known = {}

    def once(model, example_inputs, **options):
        network = _network(model) if isinstance(model, torch.nn.Module) else None
        if network is None or os.environ.get("PYTEST_CURRENT_TEST", "tests/spaces").startswith("tests/spaces"):
            return trace(model, example_inputs, **options)
        leaves, form = pytree.tree_flatten(example_inputs)
        try:
            kind = (network, str(form), tuple(map(_value, leaves)), json.dumps(options))
        except TypeError:  # rules by class, and what else is no plain value
            return trace(model, example_inputs, **options)
        if kind not in known:
            with _heard() as records:
                space = trace(model, example_inputs, **options)
            if records:
                return space
            known[kind] = space
        return known[kind]

    return staticmethod(once)


_PLAIN = (bool, int, float, str, tuple, list, type(None))
_OF_ALL = {key for key, value in vars(torch.nn.Module()).items() if not isinstance(value, _PLAIN)}


def _network(model):
    """What makes two networks trace alike: classes, plain attributes, tensors by all names; None: others do."""
    modules = []
    for name, module in model.named_modules(remove_duplicate=False):
        plain = {key: repr(value) for key, value in vars(module).items() if isinstance(value, _PLAIN)}
        if vars(module).keys() - plain.keys() - _OF_ALL or module._forward_hooks or module._forward_pre_hooks:
            return None
        modules.append((name, type(module), *plain.items()))
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return tuple(modules), tuple((name, first[id(one)], _value(one)) for name, one in tensors.items())


def _value(tensor):
    if not isinstance(tensor, torch.Tensor):
        return repr(tensor)
    held = tensor.detach().cpu()
    held = held.double() if held.is_floating_point() else held
    return (
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
        tensor.device,
        tensor.requires_grad,
        hash(held.numpy().tobytes()),
    )


def _versions(patch):
    """The scripts of Optuna's tables are read from the disk at every opening of a database."""
    from optuna.storages._rdb.storage import _VersionManager

    read = getattr(_VersionManager, "_create_alembic_script", None)
    if read is not None:
        scripts = []

        def once(manager):
            if not scripts:
                scripts.append(read(manager))
            return scripts[0]

        patch.setattr(_VersionManager, "_create_alembic_script", once)


def _operators(patch):
    """Every export to ONNX makes the table of all its operators, which takes longer than to export a small network."""
    convert, made = conversion.onnx_model, []

    def converted(*given):
        if not made:
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            made.append(ONNXRegistry)
            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        return convert(*given)

    for module in (conversion, ready):
        patch.setattr(module, "onnx_model", converted)
