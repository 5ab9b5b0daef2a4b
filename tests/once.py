"""What hundreds of tests would do again and again, done once a process: what they test begins behind it.

Nothing else is left out: a network, database or toy that was not met before, or gave a warning, goes the whole way.
"""

from __future__ import annotations

import json
import logging
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
    """Once each: an export is tried, a toy traced, Optuna's versions read, the table of ONNX's operators made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "rehearse", _rehearsed(making.rehearse))
        patch.setattr(Space, "from_settings", _traced(Space.from_settings))
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


def _traced(from_settings):
    known = {}

    def once(model, settings):
        if type(model).__module__ != toys.__name__:
            return from_settings(model, settings)
        state = b"".join(tensor.detach().cpu().double().numpy().tobytes() for tensor in model.state_dict().values())
        kind = (type(model), model.training, repr(model), json.dumps(settings, default=repr), hash(state))
        if kind not in known:
            known[kind] = from_settings(model, settings)
        return known[kind]

    return staticmethod(once)


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
