"""An exported program (.pt2) read from the disk without running anything it brings along.

`torch.export.load` (torch 2.13) trusts what it reads. It unpickles sample inputs that the safe loader refuses, weights
and constants marked `use_pickle`, custom and opaque objects, and archives of the older layouts; it loads compiled
libraries; it evaluates symbolic sizes (`sympify`) and guards as Python; it imports the modules that input trees name;
and it writes the names of the graph into Python source. So `check` reads the archive with torch's own reader first,
and refuses every member, mark, operator and text that a plain network has no use for. What passes is loaded from the
same bytes. Not covered: an archive that takes endless time or memory.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.export.pt2_archive import PT2ArchiveReader
from torch.utils import _pytree as pytree

from ..disk.files import FormatError

_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_PAYLOADS = {  # config file: pattern of the files it may point to
    "data/weights/model_weights_config.json": r"weight_\d+",
    "data/constants/model_constants_config.json": r"tensor_\d+",
}
_NEEDED = {_MODEL, _SAMPLES, *_PAYLOADS, "archive_format", "archive_version"}
_MEMBERS = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
)
_SYMBOL = r"[a-z]{1,3}\d+"
_TREES = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", "collections.namedtuple", None}
# Namespaces of torch's own operators other than aten: none is part of an exported network, and some reach the machine.
_OTHER_OPERATORS = re.compile(
    r"_.*|c10d.*|debug.*|export|flex_lib|fsdp|inductor.*|mkl.*|onednn|onnx.*|prim|prims|profiler|rngprims|static_runtime"
    r"|streams|symm_mem|load_library|loaded_libraries|import_module|higher_order"
)
_CONTROL_FLOW = {"cond", "while_loop", "map_impl", "wrap_with_set_grad_enabled", "wrap_with_autocast"}
_FILE_OPERATORS = {"from_file"}
_SIZE_WORDS = set(
    "Symbol Integer Float Rational Add Mul Pow Abs Max Min Mod And Or Not Equality Unequality LessThan StrictLessThan "
    "GreaterThan StrictGreaterThan Eq Ne Le Lt Ge Gt ceiling floor oo int_oo CeilDiv CeilToInt CleanDiv FloatPow "
    "FloatTrueDiv FloorDiv FloorToInt Identity IntTrueDiv LShift ModularIndexing PowByNatural PythonMod RShift "
    "RoundDecimal RoundToInt ToFloat TruncToFloat TruncToInt Where".split()
)
_SIZE_NODES = (ast.Expression, ast.Call, ast.keyword, ast.Load, ast.UnaryOp, ast.USub, ast.BinOp, ast.operator)


@final
class Program(nn.Module):
    """An exported program, called like the network it was made from; any batch, always in eval mode."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        """A program that was checked."""
        super().__init__()
        # Guards are Python source in the file: the checks of sizes that a hook makes without them are enough.
        self.program = program.module(check_guards=False)
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network returns."""
        return self.program(*args, **kwargs)

    def train(self, mode: bool = True) -> Program:
        """This program, where `mode` is false: it has no training mode.

        Raises:
            RuntimeError: `mode` is true.
        """
        if mode:
            raise RuntimeError(
                "a program that was loaded without its network cannot be trained; "
                "load it with sc.load(folder, model=full_network)"
            )
        return self


def read_program(path: str | Path) -> Program:
    """The program in a .pt2 file, ready to run.

    Raises:
        FileNotFoundError: no such file.
        FormatError: not a whole .pt2 file of a plain network, or it holds what is not safe to load.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"program {path} does not exist or is not a file")
    data = path.read_bytes()  # what is checked is what is loaded, even if the file changes meanwhile
    try:
        check(data)
        return Program(torch.export.load(io.BytesIO(data)))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except Exception as error:
        raise FormatError(
            f"{path} cannot be loaded by torch {torch.__version__}: {str(error).strip()[:300]}"
        ) from error


def check(data: bytes) -> None:
    """Raise a FormatError unless the .pt2 archive `data` holds a plain network and nothing that could run code."""
    names = _members(data)
    try:
        reader = PT2ArchiveReader(io.BytesIO(data))
        read = {name: reader.read_bytes(name) for name in (*_PAYLOADS, _MODEL, _SAMPLES)}
        records = reader.get_file_names()
    except (RuntimeError, AssertionError) as error:
        raise FormatError(f"not a .pt2 archive ({str(error).strip()[:200]})") from error
    if sorted(records) != sorted(names):
        raise FormatError("refused: the archive shows torch other members than its directory lists")
    for config, pattern in _PAYLOADS.items():
        _check_payloads(config, _parsed(config, read[config]), pattern, names)
    _check_samples(read[_SAMPLES])
    _check_model(_parsed(_MODEL, read[_MODEL]))


def _members(data: bytes) -> set[str]:
    """Names of the archive's members without their common root; all of them known, none twice."""
    # The sample inputs are an archive inside: in a truncated file their directory is the last one a reader finds.
    if data[-22:-18] != b"PK\x05\x06":
        raise FormatError("truncated, or not a .pt2 archive")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise FormatError(f"truncated, or not a .pt2 archive ({error})") from error
    if not data.startswith(b"PK\x03\x04") or any(
        entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries
    ):
        raise FormatError("refused: the archive is compressed, encrypted or has something in front of it")
    if sum(entry.file_size for entry in entries) > len(data):
        raise FormatError("refused: members of the archive overlap")
    roots = {entry.filename.partition("/")[0] for entry in entries}
    names = [entry.filename.partition("/")[2] for entry in entries]
    unknown = [name or "?" for name in names if not _MEMBERS.fullmatch(name)]
    if unknown:
        raise FormatError(
            f"refused: member {unknown[0]!r} is none of a plain network (custom objects, compiled code and older "
            "layouts are not loaded)"
        )
    if len(roots) != 1 or len(set(names)) != len(names):
        raise FormatError("refused: the archive has several roots, or a member twice")
    missing = sorted(_NEEDED - set(names))
    if missing:
        raise FormatError(f"not a .pt2 archive of one network: {missing[0]} is missing")
    return set(names)


def _parsed(name: str, data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} is not valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise FormatError(f"{name} is not a JSON object")
    return parsed


def _check_payloads(config: str, parsed: dict[str, Any], pattern: str, names: set[str]) -> None:
    entries = parsed.get("config")
    if not isinstance(entries, dict):
        raise FormatError(f"{config} lacks its table")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise FormatError(f"refused: {name} in {config} is marked for unpickling")
        file = entry.get("path_name")
        if not isinstance(file, str) or not re.fullmatch(pattern, file) or f"{Path(config).parent}/{file}" not in names:
            raise FormatError(f"refused: {name} in {config} points to {file!r}, not to a tensor of the archive")
        if entry.get("tensor_meta") is None:
            raise FormatError(f"refused: {name} in {config} does not describe a tensor")
        _check_text("fqn", name)
    _check_tree(entries)


def _check_samples(data: bytes) -> None:
    if not data:
        return
    try:
        samples = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the kinds differ: a pickle that is refused, a zip that is broken, a wrong storage
        raise FormatError("refused: the sample inputs hold pickled objects or are broken") from error
    if not isinstance(samples, tuple) or not all(
        leaf is None or isinstance(leaf, (Tensor, int, float, str)) for leaf in pytree.tree_leaves(samples)
    ):
        raise FormatError("refused: the sample inputs are not tensors")


def _check_model(model: dict[str, Any]) -> None:
    _check_tree({**model, "guards_code": []})  # guards are never run: `Program` asks for none


def _check_tree(value: Any) -> None:
    """Look at every text of a graph by the key it stands under."""
    for key, text in _texts("", value):
        if key in ("as_custom_obj", "custom_obj", "as_operator", "custom_obj_values"):
            raise FormatError(f"refused: the graph holds {key.removeprefix('as_')}, which a plain network does not")
        if key == "target":
            _check_operator(text)
        elif key == "expr_str":
            _check_size(text)
        elif key in ("in_spec", "out_spec"):
            _check_spec(text, arguments=key == "in_spec")
        elif key in ("name", "as_name", "forward_arg_names"):
            if text and not re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", text):
                raise FormatError(f"refused: {text[:80]!r} is no name of a value in a graph")
        else:
            _check_text(key, text)


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in nested JSON with its nearest key; keys are texts too, metadata of nodes are comments."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(key, item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in ("as_custom_obj", "custom_obj", "as_operator") or (name == "custom_obj_values" and item):
                yield name, ""
            yield "fqn", name
            if not (name == "metadata" and _comments(item)):
                yield from _texts(name, item)


def _comments(item: Any) -> bool:
    """Whether this is a node's metadata: plain texts, not an argument or a size that is called so."""
    return isinstance(item, dict) and all(
        isinstance(text, str) and not key.startswith(("as_", "expr")) for key, text in item.items()
    )


def _check_text(key: str, text: str) -> None:
    # Names of modules and tensors end between double quotes in source that torch.fx writes.
    if key != "as_string" and re.search(r"[\"'\\\x00-\x1f\x7f]", text):
        raise FormatError(f"refused: {text[:80]!r} is no name of a module, tensor or input")


def _check_operator(target: str) -> None:
    if re.fullmatch(r"(_operator|math)\.[a-z]+_?|torch\.sym_[a-z]+|torch\._sym_sqrt", target):
        return
    match = re.fullmatch(r"torch\.ops\.(\w+)\.(\w+)(?:\.(\w+))?", target)
    if match and match[1] == "higher_order":
        allowed = match[2] in _CONTROL_FLOW and match[3] is None
    elif match:
        allowed = not _OTHER_OPERATORS.fullmatch(match[1]) and match[2] not in _FILE_OPERATORS and match[3] is not None
    else:
        allowed = False
    if not allowed:
        raise FormatError(f"refused: the graph calls {target[:80]!r}, which a plain network does not")


def _check_size(expression: str) -> None:
    """Refuse what is more than calls of sympy's arithmetic, as "Mul(Integer(2), Symbol('s40', positive=True))"."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise FormatError(f"refused: {expression[:80]!r} is no size") from error
    for node in nodes:
        if isinstance(node, ast.Name):
            plain = node.id in _SIZE_WORDS or re.fullmatch(_SYMBOL, node.id) is not None
        elif isinstance(node, ast.Constant):
            plain = isinstance(node.value, (int, float)) or re.fullmatch(_SYMBOL, str(node.value)) is not None
        else:
            plain = isinstance(node, _SIZE_NODES)
        if not plain:
            raise FormatError(f"refused: {expression[:80]!r} is no size")


def _check_spec(text: str, *, arguments: bool) -> None:
    """Refuse a description of nested inputs or outputs that names anything to import."""
    if not text:
        return
    try:
        _, spec = json.loads(text)
        if arguments:  # the names of keyword arguments become names in source
            names = _context(spec["children_spec"][1]) or []
            if not all(isinstance(name, str) and name.isidentifier() for name in names):
                raise FormatError(f"refused: {names!r} are no names of arguments")
        _check_spec_node(spec)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError("refused: the inputs or outputs are not described as torch.export does") from error


def _check_spec_node(spec: dict[str, Any]) -> None:
    if spec["type"] not in _TREES:
        raise FormatError(f"refused: inputs or outputs of type {spec['type']!r}; expected tuples, lists and dicts")
    context = _context(spec)
    for key in context if isinstance(context, list) else [context]:
        if not isinstance(key, (str, int, type(None))):
            raise FormatError("refused: the inputs or outputs name something to import")
    for child in spec["children_spec"]:
        _check_spec_node(child)


def _context(spec: dict[str, Any]) -> Any:
    context = spec["context"]
    return json.loads(context) if isinstance(context, str) and spec["type"] != "collections.namedtuple" else context
