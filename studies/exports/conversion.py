"""From a network to a program with a free batch: `torch.export`, and ONNX from that."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...spaces import as_call
from ...spaces.graph.modes import DataAsDetached
from ..disk.files import write
from .verification import Example, Verification

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

_log = logging.getLogger("secateur")


def export_program(network: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """The network as a program that takes any batch; `example` holds a batch of 2 (1 would be written in).

    Raises:
        ValueError: torch cannot export the network, or only with a fixed batch.
    """
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, as_call(example))
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in pytree.tree_leaves((args, kwargs)):
        if isinstance(tensor, Tensor) and tensor.ndim:
            shapes[tensor] = {0: torch.export.Dim("batch")}
    try:
        with torch.no_grad(), warnings.catch_warnings(), DataAsDetached():
            # torch warns about its own deprecated pytree calls, and repeats the warnings of the user's forward.
            warnings.simplefilter("ignore")
            dynamic = shapes.dynamic_shapes(network, args, kwargs)  # type: ignore[no-untyped-call]
            program = torch.export.export(network, args, kwargs, dynamic_shapes=dynamic)
    except Exception as error:  # whatever the user's forward and the exporter raise
        raise ValueError(
            f"{type(network).__name__} cannot be exported with a free batch by torch {torch.__version__}: "
            f"{str(error).strip()[:500]}"
        ) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths and lines of the user's sources, in every file made from this
    return program


def program_bytes(program: torch.export.ExportedProgram) -> memoryview:
    """The .pt2 archive of a program."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch warns where a constant is a view of a larger tensor; it is read back and compared.
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer)
    return buffer.getbuffer()


def onnx_installed() -> bool:
    """Whether the `onnx` extra is there."""
    return all(importlib.util.find_spec(name) is not None for name in ONNX_PACKAGES)


def write_onnx(
    path: Path, program: torch.export.ExportedProgram, example: Example, figures: Verification, *, required: bool
) -> None:
    """Convert, write and compare; what cannot be converted or run is an error only where it is `required`."""
    try:
        with _hushed():
            converted = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False)
        assert converted is not None  # dynamo=True gives a program
        proto = converted.model_proto
        _name_batch(proto)
        write(path, proto.SerializeToString())
        run = _onnx_runner(path)
        run(figures.inputs[0])
    except OSError:
        raise
    except Exception as error:  # of many kinds: an operator or dtype that ONNX or its runtime lacks, 2 GiB exceeded
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else ''}"
        path.unlink(missing_ok=True)
        if required:
            raise ValueError(f"the network cannot be converted to ONNX ({reason}); leave onnx out") from error
        _log.warning("%s: model.onnx is left out (%s)", path.parent, reason)
        figures.found["onnx"] = {"left_out": reason}
        return
    figures.compare("onnx", run)


def _name_batch(proto: Any) -> None:
    """Call the free axis "batch" everywhere: the exporter keeps the symbol of the traced program, as in "s31"."""
    symbols = {dim.dim_param for value in proto.graph.input for dim in value.type.tensor_type.shape.dim} - {""}
    if len(symbols) != 1:
        return
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = "batch"


def _onnx_runner(path: Path) -> Callable[[Example], list[Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns on stderr of devices that it looked for
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Example) -> list[Tensor]:
        arrays = [leaf.numpy() for leaf in pytree.tree_leaves(as_call(inputs)) if isinstance(leaf, Tensor)]
        return [torch.as_tensor(output) for output in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """No prints, log lines or warnings: the ONNX exporter reports each step and each optional package it lacks."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
