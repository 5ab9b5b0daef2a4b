"""From a network to a program with a free batch, or a fixed one: `torch.export`, and ONNX from that."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...spaces import as_call, copied, plain
from ...spaces.graph.modes import DataAsDetached
from ...spaces.graph.network import Examples, spatial_side
from ...spaces.tracing.caches import made_again
from ..disk.files import write
from ..disk.process_state import environment
from .operators import of_libraries
from .program import program_bytes, read_program
from .taking import Side, Taking, pictured, rows, tensors_of
from .verification import BATCHES, Verification, batch_of, called

PROGRAMS = ("pt2", "onnx")
FORMATS = ("safetensors", *PROGRAMS)
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_ELSEWHERE = 1031  # examples in a batch that nobody gives: what a network keeps for it is not used again

_log = logging.getLogger("secateur")


@dataclass(frozen=True)
class Converted:
    """A network as a program of `torch.export`.

    Attributes:
        program: takes any batch, or `batch`.
        batch: the only batch that it takes; None: any.
        outputs: the names of its output tensors, in order, as the network returns them.
        axes: of each input tensor the names of those axes that may be free.
    """

    program: torch.export.ExportedProgram
    batch: int | None
    outputs: tuple[str, ...]
    axes: tuple[Mapping[int, str], ...]


def convert(taking: Taking, batch: int | None, *, any_side: bool = False) -> Converted:
    """The network as a program; what it returns by name (a dataclass, a subclass of dict) is a plain dict there.

    Args:
        taking: the network, in eval mode, and its inputs, with a batch of 2.
        batch: the batch that is written in; None: it is free.
        any_side: the sides of its inputs are free too.

    Raises:
        ValueError: torch cannot export the network, or not so.
    """
    network, example = taking.network, taking.example
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, as_call(example))
    if batch is not None:
        args, kwargs = batch_of((args, kwargs), batch, noise=False)
    free = " and ".join(["a free batch" if batch is None else "a fixed batch", *(["free sides"] if any_side else [])])
    try:
        with torch.no_grad(), warnings.catch_warnings(), DataAsDetached():
            # torch warns about its own deprecated pytree calls, and repeats the warnings of the user's forward.
            warnings.simplefilter("ignore")
            plainly, names = _plainly(network, args, kwargs)
            with made_again(network, example, spatial_side(example), _ELSEWHERE) as keeps:
                most = _ELSEWHERE - 1 if keeps else None
                dim = torch.export.Dim("batch", max=most) if batch is None else None
                shapes = _free(plainly, args, kwargs, dim, taking if any_side else None)
                program = torch.export.export(plainly, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:  # whatever the user's forward and the exporter raise
        raise ValueError(
            f"{type(network).__name__} cannot be exported with {free} by torch {torch.__version__}: "
            f"{str(error).strip()[:500]}"
        ) from error
    if any_side:
        _check_free(program, [taking.axes(leaf) for leaf in tensors_of((args, kwargs))])
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths and lines of the user's sources, in every file made from this
    return Converted(program, batch, _once(names, program), taking.names((args, kwargs)))


class Programs:
    """Writes a network's programs, each with a free batch where that can be, and with a fixed one where it cannot."""

    def __init__(self, taking: Taking, figures: Verification, *, any_side: bool) -> None:
        self._taking, self._figures, self._any_side = taking, figures, any_side
        self._converted: dict[int | None, Converted] = {}
        self.operators: list[str] = []  # of libraries, that a program calls

    def write(self, path: Path, notes: Mapping[str, str], *, required: bool) -> None:
        """Convert, write, read back and compare.

        Args:
            path: such as model.onnx.
            notes: metadata of an ONNX file.
            required: whether it is a ValueError that the network cannot be converted, or that what was written gives
                other outputs; the record says so otherwise.
        """
        kind = path.suffix.removeprefix(".")
        errors: list[Exception] = []
        for batch in (None, self._figures.batches[0]):
            try:
                if kind == "onnx":
                    self._figures.check_draws()
                made = self._of(batch)
                write(path, program_bytes(made.program) if kind == "pt2" else onnx_model(made, notes))
                if kind == "pt2":
                    self.operators = of_libraries(made.program)
                    run = called(read_program(path, self.operators))
                else:
                    run = onnx_runner(path)
                self._figures.compare(kind, run, batch)
            except OSError:
                raise
            except Exception as error:  # an operator or dtype that a format lacks, 2 GiB exceeded, other outputs
                path.unlink(missing_ok=True)
                errors.append(error)
                continue
            if batch is not None:
                _log.warning("%s takes a batch of %d only (%s)", path.name, batch, _first_line(errors[0]))
            return
        if required:
            raise ValueError(
                f"the network cannot be written as {kind} ({_first_line(errors[0])}); leave {kind} out of the formats"
            ) from errors[0]
        _log.warning("%s is left out (%s)", path.name, _first_line(errors[0]))
        self._figures.found[kind] = {"left_out": _first_line(errors[0])}

    def _of(self, batch: int | None) -> Converted:
        if batch not in self._converted:
            self._converted[batch] = convert(self._taking, batch, any_side=self._any_side)
        return self._converted[batch]


def rehearse(model: nn.Module, example: Examples) -> None:
    """Say before a search which formats its networks cannot be exported to, or only with a fixed batch.

    Args:
        model: the full network; it is left as it is.
        example: its inputs, with a batch of 2.
    """
    example = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), example)
    taking = Taking(copied(model).cpu().eval(), example)
    reasons = []
    for batch in (None, BATCHES[0]):
        try:
            convert(taking, batch)
            break
        except ValueError as error:
            reasons.append(_first_line(error))
    if len(reasons) == 1:
        _log.warning("networks will be exported with a batch of %d only to pt2 and onnx (%s)", BATCHES[0], reasons[0])
    if len(reasons) == 2:
        _log.warning("networks will be exported to safetensors only, without pt2 and onnx (%s)", reasons[0])


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__


def _free(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any, sides: Taking | None) -> Any:
    """What may vary, as `torch.export` takes it; None: nothing."""
    if batch is None and sides is None:
        return None
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in pytree.tree_leaves((args, kwargs)):
        if isinstance(tensor, Tensor) and tensor.ndim:
            own = {} if batch is None or len(tensor) != rows((args, kwargs)) else {0: batch}
            # AUTO: sides may be limited to those that a network takes, as multiples; that they are free is checked.
            shapes[tensor] = own | {axis: torch.export.Dim.AUTO for axis in (sides.axes(tensor) if sides else ())}
    return shapes.dynamic_shapes(network, args, kwargs)  # type: ignore[no-untyped-call]


def _check_free(program: torch.export.ExportedProgram, axes: Sequence[Mapping[int, str]]) -> None:
    """Raise a ValueError where a side that was to be free is written in."""
    names = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    for tensor, own in zip([value for value in values if isinstance(value, Tensor)], axes, strict=True):
        for axis, name in own.items():
            if isinstance(tensor.shape[axis], int):
                raise ValueError(f"the {name} of {tensor.shape[axis]} is written down in the forward; it is not free")


def _plainly(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """The network, so that it returns tuples, lists and dicts only, and the names of its output tensors."""
    outputs = network(*pytree.tree_map_only(Tensor, torch.clone, args), **kwargs)
    same = plain(outputs)
    leaves = pytree.tree_leaves_with_path(same)
    names = tuple(_output_name(path) for path, leaf in leaves if isinstance(leaf, Tensor))
    # torch.export runs the nodes of a graph one by one, the last of which gives dicts and lists of kinds of their own.
    frozen = isinstance(network, torch.fx.GraphModule) and not isinstance(outputs, Tensor)
    if pytree.tree_structure(outputs) == pytree.tree_structure(same) and not frozen:
        return network, names
    around = nn.Module()
    around.network, around.training = network, network.training

    @functools.wraps(network.forward)  # names of inputs are those of its arguments
    def forward(*args: Any, **kwargs: Any) -> Any:
        return plain(network(*args, **kwargs))

    around.forward = forward
    return around, names


def _output_name(path: tuple[Any, ...]) -> str:
    """Such as "logits", "features.0", "output_1" or "output"."""
    parts = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
    return ".".join(["output_" + parts[0] if parts[0].isdigit() else parts[0], *parts[1:]]) if parts else "output"


def _once(names: Sequence[str], program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The names of outputs, each of them no other's and no input's: an autoencoder gives a sample for a sample."""
    taken, found = set(program.graph_signature.user_inputs), list[str]()
    for name in names:
        ways = itertools.chain([name, f"output_{name}"], (f"output_{name}_{one}" for one in itertools.count(1)))
        found.append(next(way for way in ways if way not in {*taken, *found}))
    return tuple(found)


def onnx_installed() -> bool:
    """Whether the `onnx` extra is there."""
    return all(importlib.util.find_spec(name) is not None for name in _ONNX_PACKAGES)


@dataclass(frozen=True)
class Wanted:
    """What is asked of an export.

    Attributes:
        formats: of `FORMATS`; safetensors is always written. Those that are named must be; None: all that can be, and
            the record says why one is left out. A program whose batch cannot be free has a fixed one, also recorded.
        pictures: programs take uint8 pictures `(n, *side, c)` and scale and normalise them; see `taking.py`.
        any_side: programs take every side that the network takes.
    """

    formats: Sequence[str] | None = None
    pictures: bool = False
    any_side: bool = False

    def check(self) -> None:
        """Raise a ValueError where formats are named that do not exist, or need an extra that is not installed."""
        formats = self.formats
        if formats is None:
            return
        if isinstance(formats, str) or any(name not in FORMATS for name in formats):
            raise ValueError(
                f"formats={formats!r}: expected some of {', '.join(FORMATS)}; the first one is always written"
            )
        if "onnx" in formats and not onnx_installed():
            raise ValueError(
                f"the format onnx needs {', '.join(_ONNX_PACKAGES)}: pip install 'secateur[onnx]', or leave onnx out"
            )

    @property
    def required(self) -> bool:
        """Whether it is an error that a format cannot be written as asked."""
        return self.formats is not None or self.any_side or self.pictures

    def names(self) -> list[str]:
        """The programs that are written, if they can be."""
        return [
            name
            for name in PROGRAMS
            if (name in self.formats if self.formats is not None else name == "pt2" or onnx_installed())
        ]

    def taking(self, network: nn.Module, example: Examples, record: Mapping[str, Any]) -> tuple[Taking, list[Side]]:
        """What programs take, and the other sides at which they are compared.

        Args:
            network: in eval mode on the CPU.
            example: its inputs, with a batch of 2.
            record: what config.json says: `resolution`, `side_multiple` and `preprocessing` are read.

        Raises:
            ValueError: the network or the record does not allow what is asked.
        """
        side, step = tuple(record.get("resolution") or ()), record.get("side_multiple", 0)
        taking = Taking(network, example, side)
        if self.any_side and not (side and step):
            raise ValueError(
                "any_side=True: the network takes no other sides, as far as was tried when it was traced "
                "(space.side_multiple is 0); leave any_side out"
            )
        if self.pictures:
            taking = pictured(taking, record.get("preprocessing") or {})
        larger, smaller = ([size + (place + 1) * one for place, size in enumerate(side)] for one in (step, -step))
        sides = [
            tuple(larger),
            *([tuple(smaller)] if min(smaller, default=0) >= max(step, min(side, default=0) // 2) else []),
        ]
        return taking, sides if self.any_side else []

    def rehearse(self, model: nn.Module, example: Examples, record: Mapping[str, Any]) -> None:
        """Raise a ValueError where programs of the full network cannot take what is asked; it is left as it is."""
        if not (self.names() and (self.pictures or self.any_side)):
            return
        example = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), example)
        taking, sides = self.taking(copied(model).cpu().eval(), example, record)
        Verification(taking, sides)
        try:
            convert(taking, None, any_side=self.any_side)
        except ValueError:
            convert(taking, BATCHES[0], any_side=self.any_side)


def onnx_model(made: Converted, notes: Mapping[str, str]) -> bytes:
    """The program for ONNX runtimes, weights inside.

    Args:
        made: the program.
        notes: metadata of the file, texts by name.
    """
    from onnx_ir.passes.common import NameFixPass

    with _hushed():
        names = list(made.outputs)
        converted = torch.onnx.export(made.program, dynamo=True, external_data=False, verbose=False, output_names=names)
        assert converted is not None  # dynamo=True gives a program
        NameFixPass()(converted.model)  # what is called as an output is: "relu", "conv.weight", "val_0"
        _keep_pads(converted.model)
    proto = converted.model_proto
    _name_axes(proto, made.axes)
    for key, text in notes.items():
        proto.metadata_props.add(key=key, value=text)
    data: bytes = proto.SerializeToString()
    return data


def _keep_pads(model: Any) -> None:
    """Pads before a MaxPool name their axes: ONNX Runtime takes others for that pool's own, which is minus infinity."""
    import onnx_ir

    for number, node in enumerate(model.graph):
        if node.op_type == "Pad" and len(node.inputs) < 4:
            if {"MaxPool", "Cast"} & {use.node.op_type for use in node.outputs[0].uses()}:
                axes = onnx_ir.tensor(range(len(node.inputs[0].shape)), onnx_ir.DataType.INT64, name=f"axes_{number}")
                model.graph.register_initializer(onnx_ir.Value(name=axes.name, const_value=axes))
                node.resize_inputs(4)
                node.replace_input_with(3, model.graph.initializers[axes.name])


def _name_axes(proto: Any, axes: Sequence[Mapping[int, str]]) -> None:
    """Call free axes "batch", "height", ... everywhere: the exporter keeps the symbols of the program, as in "s31"."""
    names: dict[str, str] = {}
    for value, own in zip(proto.graph.input, axes, strict=True):
        for axis, name in own.items():
            dims = value.type.tensor_type.shape.dim
            if axis < len(dims) and dims[axis].dim_param:
                names.setdefault(dims[axis].dim_param, name)
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda match: names.get(match[0], match[0]), dim.dim_param)


def onnx_session(model: Path | bytes, *, threads: int, providers: Sequence[str]) -> Any:
    """An ONNX model, or the file of one, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns on stderr of devices that it looked for
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=list(providers))


def onnx_runner(path: Path) -> Callable[[Examples], list[Tensor]]:
    """An ONNX file as a function from inputs to its outputs in order, on one thread of the processor."""
    session = onnx_session(path, threads=1, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Examples) -> list[Tensor]:
        arrays = [leaf.numpy() for leaf in pytree.tree_leaves(as_call(inputs)) if isinstance(leaf, Tensor)]
        return [torch.as_tensor(output) for output in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """No prints, log lines or warnings: the ONNX exporter reports each step and each optional package it lacks."""
    with environment({}, quiet="torch.onnx"), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
