"""A new study file with a comment on every key, whose texts are those of the dataclasses. Start at `write`."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...spaces.checked import first_sentence, texts_of
from ..disk.files import write_atomic
from .data import READERS
from .file import StudyFile, read
from .keys import TABLES, keys, written
from .tables import changed

_SHOWN: dict[str, tuple[str, ...]] = {
    "model": ("factory", "arguments", "checkpoint", "train", "expect_error"),
    "data": (
        "kind",
        "reader",
        "path",
        "side",
        "mode",
        "validation",
        "test",
        "split_seed",
        "batch",
        "mean",
        "std",
        "augment",
    ),
    "space": ("resolutions", "divisor", "ignore", "rules", "block_order"),
    "budget": ("macs", "params", "peak_bytes", "latency_ms"),
    "training": ("optimizer", "lr", "amp", "base_epochs", "short_epochs", "long_epochs"),
    "study": ("sampler", "seeds", "early_stopping", "trials", "seed", "device", "threads", "track"),
    "runner": ("kind", "workers", "gpus_per_trial", "timeout_s"),
}
_HEADS = {
    "model": "The full network: a function of yours that makes it, and its trained weights.",
    "data": "What it learned from. mean and std are those that it was trained with.",
    "space": "What is searched.",
    "budget": "What a smaller network may cost: a float up to 1 is a share of the full network's.",
    "training": "How networks are trained.",
    "study": "How it is searched.",
    "runner": "Where trials run.",
}
_INSTEAD = {  # of a default that says little; of one table only where it is named
    "checkpoint": '"weights.pt"',
    "expect_error": "0.05",
    "side": "64",
    "mode": '"RGB"',
    "test": "0.2",
    "mean": "[0.485, 0.456, 0.406]",
    "std": "[0.229, 0.224, 0.225]",
    "augment": "{ flip = true, shift = 0.1 }",
    "resolutions": "[64, 48, 32]",
    "rules": '{ "layer1.*" = { least = 0.5 } }',
    "ignore": '["head"]',
    "macs": "0.5",
    "params": "100000",
    "peak_bytes": '"50%"',
    "latency_ms": "3.0",
    "amp": '"bfloat16"',
    "data.batch": "128",
    "runner.kind": '"processes"',
    "workers": "2",
    "gpus_per_trial": "0.5",
    "timeout_s": "3600.0",
    "track": '["tensorboard"]',
    "arguments": "{ classes = 10 }",
}


def write(path: Path, tables: Mapping[str, Mapping[str, Any]], changes: Sequence[str] = ()) -> StudyFile:
    """A study file at `path` with the keys that are given, and other usual ones as comments; the file as it is read.

    Args:
        path: a new file, whose name ends in .toml.
        tables: the keys by table; `data_at` says how those of data are found.
        changes: `TABLE.NAME=VALUE`, over them.

    Raises:
        FileExistsError: there is such a file.
        ValueError: a key or a value is none; nothing is left then.
    """
    if path.suffix != ".toml":
        raise ValueError(f"{path}: expected a name that ends in .toml")
    if os.path.lexists(path):
        raise FileExistsError(f"{path} is there already; choose another name, or remove it")
    given = changed(tables, changes)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.absolute().parent} is no folder; make it first")
    write_atomic(path, text_of(given))
    try:
        return read(path)
    except BaseException:
        path.unlink()
        raise


def data_at(place: str, beside: Path) -> dict[str, Any]:
    """The table of data that a user names by one text: a reader's own, a factory of a task, a folder, a file.

    Args:
        place: the text.
        beside: the folder of the study file, from which paths are told.

    Raises:
        ValueError: it is none of these.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        idx = any(path.glob("train-images*"))
        found = {"reader": "idx" if idx else "folder", "path": relative(path, beside)}
        return found | ({"kind": "segmentation"} if _has_masks(path) else {})
    if path.is_file() and path.suffix in (".npz", ".csv"):
        return {"reader": path.suffix[1:], "path": relative(path, beside)}
    if ":" in place and not path.exists():
        return {"factory": place}
    if place in READERS:
        return {"reader": place}
    raise ValueError(
        f"--data {place!r}: expected a folder with one folder of images a class, or with the folders images and masks, "
        "a folder of IDX files, an .npz file, a .csv that lists images, package.module:factory of a task, or one of "
        f"{', '.join(READERS)}"
    )


def _has_masks(path: Path) -> bool:
    """Whether images and masks lie beside one another, in the folder or in its part to learn from."""
    return any((place / "images").is_dir() and (place / "masks").is_dir() for place in (path, path / "train"))


def relative(path: Path, beside: Path) -> str:
    """A path as it is written to a file in the folder `beside`."""
    return os.path.relpath(path.expanduser(), beside)


def text_of(given: Mapping[str, Any]) -> str:
    """The file's text: what is given as it is, what else is usual behind a `#`."""
    lines = ["# A study file of secateur: every key is an argument of the same name in Python.", ""]
    for table in dict.fromkeys((*_SHOWN, *given)):
        values = given.get(table, {})
        values = values if isinstance(values, Mapping) else {"kind" if table == "runner" else "factory": values}
        known = {one.name: one for kind in reversed(TABLES.get(table, ())) for one in keys(kind)}
        usual = () if table == "data" and "factory" in values else _SHOWN.get(table, ())
        texts = {name: text for kind in reversed(TABLES.get(table, ())) for name, text in texts_of(kind).items()}
        lines += [f"# --- {_HEADS.get(table, table)}", f"[{table}]"]
        for name in dict.fromkeys((*values, *usual)):
            said = first_sentence(texts[name]).replace("None", "not given") if name in texts else ""
            lines += textwrap.wrap(said, 100, initial_indent="# ", subsequent_indent="# ")
            value = written(values[name]) if name in values else _instead(table, name) or known[name].default
            lines.append(f"{'' if name in values else '# '}{name} = {value}")
        lines.append("")
    return "\n".join(lines)


def _instead(table: str, name: str) -> str | None:
    return _INSTEAD.get(f"{table}.{name}", _INSTEAD.get(name))
