"""An exported program (.pt2) read from the disk without running anything it brings along.

`torch.export.load` (torch 2.13) trusts what it reads. It unpickles sample inputs that the safe loader refuses, weights
and constants marked `use_pickle`, custom and opaque objects, and archives of the older layouts; it loads compiled
libraries; it evaluates symbolic sizes (`sympify`) and guards as Python; it imports the modules that input trees name;
and it writes the names of the graph into Python source. So `check` reads the archive with torch's own reader first,
and refuses every member, mark, operator (`operators.py`) and text that a plain network has no use for, sizes that would
take long to calculate, and tensors that lack their bytes. What passes is loaded from the same bytes. Not covered: a
program that takes endless time or memory when it is called.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE
from torch.export.pt2_archive import PT2ArchiveReader
from torch.utils import _pytree as pytree

from ..disk.files import FormatError, read_whole
from ..disk.process_state import environment
from .operators import check_operator

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
_SIZE_WORDS = set(
    "Symbol Integer Float Rational Add Mul Pow Abs Max Min Mod And Or Not Equality Unequality LessThan StrictLessThan "
    "GreaterThan StrictGreaterThan Eq Ne Le Lt Ge Gt ceiling floor oo int_oo CeilDiv CeilToInt CleanDiv FloatPow "
    "FloatTrueDiv FloorDiv FloorToInt Identity IntTrueDiv ModularIndexing PowByNatural PythonMod "
    "RoundDecimal RoundToInt ToFloat TruncToFloat TruncToInt Where".split()
)
_POWERS = {"Pow", "FloatPow", "PowByNatural"}
_SIZE_NODES = (ast.Expression, ast.Call, ast.keyword, ast.Load, ast.UnaryOp, ast.USub, ast.BinOp)
_SIZE_SIGNS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_LONGEST_SIZE, _LARGEST_SIZE = 20_000, 2**63
_LARGEST_POWER = _MOST_POWERS = 4  # a size of 64 bits has at most 2**14 after so many
_MOST_DIGITS = 100  # of a float that a size may ask for


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


def program_bytes(program: torch.export.ExportedProgram) -> bytes:
    """The .pt2 archive of a program."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch warns where a constant is a view of a larger tensor; it is read back and compared.
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer)
    return buffer.getvalue()  # no copy; a view of it would outlive it, of which Python 3.13 complains


def read_program(path: str | Path, operators: Collection[str] = ()) -> Program:
    """The program in a .pt2 file, ready to run.

    Args:
        path: the file.
        operators: those of libraries that it may call, such as `"torchvision::nms"`.

    Raises:
        FileNotFoundError: no such file.
        FormatError: not a whole .pt2 file of a plain network, or it holds what is not safe to load.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"program {path} does not exist or is not a file")
    data = read_whole(path)  # what is checked is what is loaded, even if the file changes meanwhile
    try:
        check(data, operators)
        # torch logs what it refuses, traceback and all, before it raises that.
        with environment({}, quiet="torch.export"), environment({}, quiet="torch._export.serde.serialize"):
            return Program(torch.export.load(io.BytesIO(data)))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise FormatError(f"{path} cannot be loaded by torch {torch.__version__}: {said}") from error


def check(data: bytes, operators: Collection[str] = ()) -> None:
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
    model = _parsed(_MODEL, read[_MODEL])
    _check_tree({**model, "guards_code": []}, operators)  # guards are never run: `Program` asks for none


def _members(data: bytes) -> dict[str, int]:
    """Names of the archive's members without their common root, and their bytes; all of them known, none twice."""
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
    return {name: entry.file_size for name, entry in zip(names, entries, strict=True)}


def _parsed(name: str, data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} is not valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise FormatError(f"{name} is not a JSON object")
    return parsed


def _check_payloads(config: str, parsed: dict[str, Any], pattern: str, names: Mapping[str, int]) -> None:
    entries = parsed.get("config")
    if not isinstance(entries, dict):
        raise FormatError(f"{config} lacks its table")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise FormatError(f"refused: {name} in {config} is marked for unpickling")
        file = entry.get("path_name")
        if not isinstance(file, str) or not re.fullmatch(pattern, file) or f"{Path(config).parent}/{file}" not in names:
            raise FormatError(f"refused: {name} in {config} points to {file!r}, not to a tensor of the archive")
        if _bytes_of(entry.get("tensor_meta"), name) > names[f"{Path(config).parent}/{file}"]:
            raise FormatError(f"{name} in {config} lacks bytes of its tensor: the archive was edited or cut short")
        _check_text("fqn", name)
    _check_tree(entries, ())


def _bytes_of(described: Any, name: str) -> int:
    """How many bytes a tensor of the archive reaches to in its file."""
    try:
        sizes, strides = ([int(one["as_int"]) for one in described[key]] for key in ("sizes", "strides"))
        dtype = _SERIALIZE_TO_TORCH_DTYPE[described["dtype"]]
        start = int(described["storage_offset"]["as_int"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"refused: {name} does not describe a tensor") from error
    if len(sizes) != len(strides) or min((*sizes, *strides, start), default=0) < 0:
        raise FormatError(f"refused: {name} does not describe a tensor")
    reach = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    return (start + reach) * dtype.itemsize if all(sizes) else 0


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


def _check_tree(value: Any, operators: Collection[str]) -> None:
    """Look at every text of a graph by the key it stands under."""
    for key, text in _texts("", value):
        if key in ("as_custom_obj", "custom_obj", "as_operator", "custom_obj_values"):
            raise FormatError(f"refused: the graph holds {key.removeprefix('as_')}, which a plain network does not")
        if key == "target":
            check_operator(text, operators)
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


def _check_size(expression: str) -> None:
    """Refuse what is more than calls of sympy's arithmetic, as "Mul(Integer(2), Symbol('s40', positive=True))".

    And what is much to calculate: numbers beyond 64 bits, powers of powers, floats of a million digits.
    """
    try:
        if len(expression) > _LONGEST_SIZE:
            raise ValueError("too long")
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise FormatError(f"refused: {expression[:80]!r} is no size") from error
    powers = sum(isinstance(node, ast.Name) and node.id in _POWERS for node in nodes)
    if powers > _MOST_POWERS or not all(map(_is_size, nodes)):
        raise FormatError(f"refused: {expression[:80]!r} is no size")


def _is_size(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _SIZE_WORDS or re.fullmatch(_SYMBOL, node.id) is not None
    if isinstance(node, ast.Constant):
        if isinstance(node.value, int | float):
            return abs(node.value) <= _LARGEST_SIZE
        return re.fullmatch(_SYMBOL, str(node.value)) is not None or _is_number(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in _POWERS:
            return len(node.args) == 2 and _is_small(node.args[1]) and not node.keywords
        if node.func.id == "Float":
            digits = [*node.args[1:], *(one.value for one in node.keywords)]
            return all(isinstance(one, ast.Constant) and _at_most(one.value, _MOST_DIGITS) for one in digits)
    return isinstance(node, (*_SIZE_NODES, *_SIZE_SIGNS))


def _is_number(value: Any) -> bool:
    """Whether this is a float as sympy writes it, in quotes."""
    return isinstance(value, str) and re.fullmatch(r"-?\d{1,40}(\.\d{1,60})?(e[+-]?\d{1,3})?", value) is not None


def _at_most(value: Any, most: int) -> bool:
    return isinstance(value, int | float) and abs(value) <= most


def _is_small(node: ast.expr) -> bool:
    """Whether an exponent is a small number, such as `Integer(2)` or `Rational(1, 2)`."""
    parts: list[ast.expr] = [node]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Integer", "Rational"):
        parts = node.args
    numbers = [one.operand if isinstance(one, ast.UnaryOp) else one for one in parts]
    return all(isinstance(one, ast.Constant) and _at_most(one.value, _LARGEST_POWER) for one in numbers)


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
