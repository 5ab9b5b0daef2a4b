"""The README.md card of an exported folder: YAML that the Hugging Face Hub reads, then Markdown for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

_FILES = {
    "config.json": "what was cut, costs, errors, preprocessing, versions, and how each file was verified",
    "model.safetensors": "weights, for `sc.load(folder, model=full_network)`: your own class, to train further",
    "model.pt2": "the program with its weights, for `sc.load(folder)`: runs without your class",
    "model.onnx": "the same for ONNX runtimes, weights inside",
}

_PIPELINES = ("image-classification", "image-segmentation", "tabular-classification", "tabular-regression")  # the Hub's
_TEXTS = {"license": "the Hub's word for it, such as 'apache-2.0'", "dataset": "what the data are called"}


def check_notes(notes: Mapping[str, Any]) -> None:
    """Refuse a licence or a name of the data that is no text.

    Raises:
        ValueError: one is something else, or empty.
    """
    for name, expected in _TEXTS.items():
        if name in notes and not (isinstance(notes[name], str) and notes[name].strip()):
            raise ValueError(f"notes: {name!r} is {notes[name]!r}; expected a text, {expected}")


def card(config: Mapping[str, Any], files: Iterable[str]) -> str:
    """Markdown with YAML front matter: what the network is, costs, how right it is, and how to run it."""
    files = sorted(set(files) - {"README.md"})
    verified = config["verified"]
    lines = [
        "---",
        *(f"{key}: {_yaml(value)}" for key, value in _said_to_the_hub(config).items()),
        "---",
        "",
        f"# {config['class'].rpartition('.')[2]}, pruned",
        "",
        f"A smaller `{config['class']}`: {_removed(config)}.",
        *(["", f"It is over the budget of its study: {config['over_budget']}."] if config.get("over_budget") else []),
        *_reconstructed(config),
        *_table("Costs (one example)", config.get("costs")),
        *_table("Errors", config.get("errors")),
        *_table("Candidate", config.get("candidate")),
        *_sparse(config),
        "",
        "## Files",
        "",
        *(f"- `{name}`: {_FILES.get(name, 'more')}{_figure(verified, name)}" for name in files),
        "",
        "## Use",
        "",
        "```python",
        "import secateur as sc",
        "",
        "run = sc.load(FOLDER)                # FOLDER: where this file is",
        "net = sc.load(FOLDER, model=full)    # full: the network it was cut from, any weights",
        "```",
        "",
        f"Inputs: `{json.dumps(config['inputs'])}`.",
        *([f"Preprocessing: `{json.dumps(config['preprocessing'])}`."] if config.get("preprocessing") else []),
        "",
        "Made with " + ", ".join(f"{name} {number}" for name, number in config["versions"].items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def _said_to_the_hub(config: Mapping[str, Any]) -> dict[str, Any]:
    """The front matter, by https://huggingface.co/docs/hub/model-cards; nothing is said of what is not known."""
    task, metric, data = config.get("task", "other"), config.get("metric", "error"), config.get("dataset")
    errors = config.get("errors") or {}
    results = [
        {
            "task": {"type": task},
            "dataset": {"type": data or "own", "name": data or "data of its maker", "split": split},
            "metrics": [{"type": metric, "name": f"{split}_error", "value": errors[f"{split}_error"]}],
        }
        for split in ("test", "validation")
        if _is_finite(errors.get(f"{split}_error"))
    ]
    index = [{"name": f"{config['class'].rpartition('.')[2]} {config.get('key', 'pruned')}", "results": results}]
    return {
        "library_name": "secateur",
        **({"license": config["license"]} if "license" in config else {}),
        **({"pipeline_tag": task} if task in _PIPELINES else {}),
        "tags": ["secateur", "pruned", "pytorch"],
        **({"metrics": [metric], "model-index": index} if results else {}),
        **{key: config[key] for key in ("key", "dtype", "resolution", "fingerprint") if key in config},
    }


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _yaml(value: Any) -> str:
    """A value in a line that YAML 1.1 and 1.2 read alike: all texts are quoted, numbers have a point."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml(str(name))}: {_yaml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, str):
        shown = (one if one.isprintable() and one not in '"\\' else f"\\U{ord(one):08X}" for one in value)
        return f'"{"".join(shown)}"'
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        mantissa, mark, exponent = float.__repr__(value).partition("e")
        return mantissa + ("" if "." in mantissa else ".0") + mark + exponent
    return json.dumps(value)


def _removed(config: Mapping[str, Any]) -> str:
    cut = sum(config["shapes"].get(name, shape) != shape for name, shape in config["full_shapes"].items())
    blocks = ", ".join(f"`{name}`" for name in config["removed"])
    return f"{cut} tensors with fewer channels, blocks removed: {blocks or 'none'}"


def _sparse(config: Mapping[str, Any]) -> list[str]:
    if "sparsity" not in config:
        return []
    return [
        "",
        f"{config['sparsity']:.1%} of its weights are zero (GraNet); usual kernels, which are dense, gain nothing.",
    ]


def _reconstructed(config: Mapping[str, Any]) -> list[str]:
    """That its layers were solved by least squares, where they were, and whether it was trained after that."""
    solved = config.get("reconstruction")
    if solved:
        agreement = "" if solved["agreement"] is None else f", and agrees with it on {solved['agreement']:.1%}"
        if solved.get("agreement_interval"):
            low, high = solved["agreement_interval"]
            agreement += f" ({low:.1%} to {high:.1%} by 95 in 100 on pictures like them)"
        return [
            "",
            f"Its layers were solved by least squares to give what the full network's give, on {solved['pictures']} "
            f"pictures without labels. On {solved['held_out']} others its error beside the full network is "
            f"{solved['error']:.4f} of the spread{agreement}.",
        ]
    if config.get("fidelity") != "reconstructed":
        return []
    training = config["training"]
    then = f"then trained for {training['epochs']} epochs" if training["epochs"] else "and not trained"
    return [
        "",
        f"Its layers were solved by least squares to give what the full network's give, on up to "
        f"{training['recalibration_images']} training images without their labels, {then}.",
    ]


def _table(title: str, values: Any) -> list[str]:
    if not isinstance(values, Mapping) or not values:
        return []
    rows = [
        f"| {name} | {value:,.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in values.items()
    ]
    return ["", f"## {title}", "", "| | |", "| --- | --- |", *rows]


def _figure(verified: Mapping[str, Any], name: str) -> str:
    found = dict(verified.get(name.rpartition(".")[2], {"left_out": ""}))
    if "left_out" in found:
        return ""
    fixed, unsteady = found.pop("fixed_batch", None), found.pop("unsteady", None)
    batch = "" if name == "model.safetensors" else "; any batch" if fixed is None else f"; a batch of {fixed} only"
    where = "" if unsteady is None else f", but for {unsteady:.1%} of an output, which hangs on rounding"
    worst = max(found.values(), default=0.0)
    return f" (differs from the network in memory by at most {worst:.1g} of the largest output{where}{batch})"
