"""The page of the coverage sweep, from the results in its cache."""

from __future__ import annotations

import json
import platform
from collections import Counter, defaultdict
from importlib import metadata
from pathlib import Path

import zoo

LIBRARIES = {
    "torchvision": "torchvision",
    "monai": "MONAI, 3D",
    "timm": "timm, one or two of each convolutional family",
    "hybrid": "timm, hybrids of convolution and attention",
}
VERDICTS = {
    "covered": "traced, built at 50 +- 2 % of its MACs, equal to the masked full network, exported",
    "wrong": "built, and not equal",
    "silent": "half of the MACs cannot be reached, and reasons are given for less than half of what is frozen",
    "short": "right, but half of the MACs cannot be reached; the reasons are given",
    "not exported": "right, but `torch.export` does not take the built network",
    "not built": "traced; building or running the built network raised an error",
    "not traced": "tracing raised an error, which says why",
    "not run": "the network itself does not run here",
    "timeout": "the time limit came first",
    "costs only": "more than 200 M parameters: trace and costs only",
}
PEERS = {"torch-pruning": "Torch-Pruning 1.6.1", "fastnas": "ModelOpt FastNAS 0.47.0"}


def write(cache, page):
    """Write the page from `cache`, if there are results."""
    results = {library: read(cache / library) for library in LIBRARIES}
    if not any(results.values()):
        return
    peers = {peer: {library: read(cache / peer / library) for library in LIBRARIES} for peer in PEERS}
    lines = [*_head(results), *_summary(results, peers)]
    for library, title in LIBRARIES.items():
        if results[library]:
            lines += ["", f"## {title}", "", *_networks(results[library], {p: peers[p][library] for p in PEERS})]
    lines += _whole(results) + _left_out()
    page.write_text("\n".join(lines).rstrip() + "\n")


def read(folder):
    """Results by name, in the order of the list."""
    found = {}
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        if "verdict" in record:
            found[record["name"]] = record
    order = [entry.name for entry in zoo.entries(folder.name)] if found else []
    return {name: found[name] for name in order if name in found}


def _head(results):
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "monai"))
    lines = [
        "# Coverage",
        "",
        "What Secateur does with networks nobody here wrote. Written by `python benchmarks/coverage.py`, which traces,",
        "halves, verifies and exports each network of a fixed list (`benchmarks/zoo.py`) in a process of its own, with",
        f"random weights, on one CPU core; {versions}, Python {platform.python_version()}.",
        "",
        "| result | means |",
        "|---|---|",
        *(f"| {name} | {meaning} |" for name, meaning in VERDICTS.items()),
        "",
        "*Equal* is `secateur.verify`: the built network against the full one with exactly the removed elements",
        "zeroed, within 1e-10 of the largest output in float64 (1e-4 in float32 where a forward insists on it), at",
        "half of the MACs and at one random candidate, which also drops blocks. Where a norm mixes channels the",
        "full network takes its statistics over the kept channels. It runs at the smallest side that the network",
        "takes; trace and costs are of the side it is made for. *Exported*: the program of `torch.export` gives",
        "what the built network gives, for another batch size too (`one batch` where it does not let the batch",
        "vary).",
    ]
    return lines + mixed(record for records in results.values() for record in records.values())


def mixed(records):
    """What says that results are of different versions of the code; nothing where they are of one."""
    codes = Counter(record["code"] for record in records)
    if len(codes) < 2:
        return []
    counts = ", ".join(f"{n} with {code}" for code, n in codes.most_common())
    return ["", f"**Results of different versions of the code are mixed here**: {counts}."]


def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _summary(results, peers):
    columns = [name for name in VERDICTS if any(r["verdict"] == name for rs in results.values() for r in rs.values())]
    columns = list(dict.fromkeys(["covered", "wrong", "silent", *columns]))
    rows = []
    for library, title in LIBRARIES.items():
        records = list(results[library].values())
        counts = Counter(record["verdict"] for record in records)
        tried = len(records) - counts["costs only"]
        if records:
            share = f"{100 * counts['covered'] / max(tried, 1):.1f} %"
            rows.append([title, len(records), share, *(counts[name] for name in columns)])
    lines = ["", "## Summary", "", *table(["networks of", "number", "share covered", *columns], rows)]
    shown = [(peer, title) for peer, title in PEERS.items() if any(peers[peer].values())]
    if not shown:
        return lines
    lines += [
        "",
        "Other libraries on the same list (`--peers torch-pruning fastnas`, see `benchmarks/peers.py`). *Runs*: a",
        "network comes out, runs, and its outputs have the shapes of the full one's. *Budget met*: it runs and has",
        "50 +- 2 % of the MACs. *Equal*: it runs and gives what the full network gives with those channels zeroed",
        "that it lacks; left open where that cannot be read off its weights. *Wrong*: it runs and differs. *Over*:",
        "it keeps more than 52 % of the MACs at every ratio tried. *Tried* says how many of the list were run.",
    ]
    rows = []
    for peer, title in shown:
        for library, name in LIBRARIES.items():
            records = [r for r in peers[peer][library].values() if not r.get("large")]
            if records:
                count = Counter(word for record in records for word in _peer_words(record))
                words = ("runs", "budget met", "equal", "covered", "wrong", "over", "error", "timeout")
                rows.append([title, name, len(records), *(count[word] for word in words)])
    heads = ["library", "networks of", "tried", "runs", "budget met", "equal", "budget met and equal"]
    return lines + ["", *table([*heads, "wrong", "over", "error", "timeout"], rows)]


def _peer_words(record):
    """All that is true of a peer's result."""
    if record.get("timeout"):
        return ["timeout"]
    if not record.get("runs"):
        return ["error"]
    words = ["runs"]
    met, equal = 0.48 <= record["ratio"] <= 0.52, record.get("equal")
    words += ["budget met"] * met + ["equal"] * bool(equal) + ["covered"] * bool(met and equal)
    return words + ["wrong"] * (equal is False) + ["over"] * (record["ratio"] > 0.52)


def _networks(records, peers):
    shown = [peer for peer, found in peers.items() if found]
    heads = [
        "network",
        "result",
        "parameters",
        "reachable",
        "frozen",
        "at half",
        "error",
        "side",
        "batch",
        "settings",
        "trace",
    ]
    rows = []
    for name, record in records.items():
        reachable = f"{100 * record['reachable']:.1f} %" if "reachable" in record else ""
        share = f"{100 * record['frozen']:.1f} %" if "frozen" in record else ""
        error = max(record.get("error", -1), record.get("error_random", -1))
        row = [
            name,
            record["verdict"] if record["verdict"] == "covered" else f"**{record['verdict']}**",
            f"{record['parameters'] / 1e6:.1f} M" if "parameters" in record else "",
            reachable,
            share,
            f"{100 * record['ratio']:.1f} %" if "ratio" in record else "",
            f"{error:.0e}" if error >= 0 else "",
            record.get("side", ""),
            record.get("exported", ""),
            record.get("settings", ""),
            f"{record['seconds']['trace']:.1f} s" if "trace" in record["seconds"] else "",
            f"{record['seconds']['all']:.0f} s",
        ]
        rows.append(row + [", ".join(_brief(peers[peer].get(name))) for peer in shown])
    text = [
        "*Reachable*: share of the MACs that the smallest candidate saves. *Frozen*: share of the parameters that no",
        "width takes away, among them those of auxiliary heads that run in training only. *Settings*: other than",
        "those of `Space.trace(model, example)`, where these did not reach half. *Trace* and *all*: seconds",
        "of the processor for `Space.trace`, and for everything.",
        "",
    ]
    return text + table([*heads, "all", *(PEERS[peer] for peer in shown)], rows)


def _brief(record):
    if record is None:
        return ["-"]
    words = [word for word in _peer_words(record) if word not in ("runs", "budget met", "equal")]
    if "ratio" in record and "covered" not in words:
        words.append(f"{100 * record['ratio']:.0f} %")
    return words


def _whole(results):
    lines = [
        "",
        "## What was left whole, and why",
        "",
        "Reasons as `print(space)` gives them, by the number of networks in which they occur, and the largest share",
        "of a network's parameters under the modules they name. The last layer of every network is the network's",
        "output and is not listed.",
        "",
    ]
    networks, largest = defaultdict(list), defaultdict(float)
    for records in results.values():
        for record in records.values():
            for reason, share in record.get("reasons", ()):
                reason = general(reason)
                if "network's output" not in reason:
                    networks[reason].append(record["name"])
                    largest[reason] = max(largest[reason], share)
    rows = [
        [reason, len(set(names)), f"{100 * largest[reason]:.1f} %", ", ".join(list(dict.fromkeys(names))[:3])]
        for reason, names in sorted(networks.items(), key=lambda item: -len(set(item[1])))
    ]
    lines += table(["reason", "networks", "largest share", "such as"], rows)
    rows = []
    for library, records in results.items():
        for name, record in records.items():
            if record["verdict"] not in ("covered", "costs only"):
                rows.append([LIBRARIES[library].split(",")[0], name, record["verdict"], why(record)])
    return [*lines, "", "## Networks that are not covered", "", *table(["of", "network", "result", "why"], rows)]


def general(reason):
    """A reason without the numbers and places of one network."""
    head, colon, rest = reason.partition(" channels: ")
    reason = rest if colon and head.replace(" of ", "").isdigit() else reason
    return reason.partition(" at /")[0]


def why(record):
    if "failure" in record:
        own = record["verdict"] == "not exported" and "full exports" not in record
        text = record["failure"].replace("|", "\\|")[:200]
        return f"the full network is not exported either: {text}" if own else text
    if record["verdict"] == "wrong":
        return f"relative error {max(record['error'], record['error_random']):.2g}"
    told = [f"{general(r)} ({100 * share:.0f} %)" for r, share in record.get("reasons", ()) if "output" not in r][:3]
    return f"{100 * record.get('reachable', 0):.0f} % of the MACs reachable; " + "; ".join(told)


def _left_out():
    lines = ["", "## Not on the list", ""]
    lines += ["torchvision: " + ", ".join(zoo.torchvision_left_out()) + " (transformers); detection, optical flow and"]
    lines += ["quantised networks.", ""]
    lines += [f"MONAI: {names} ({reason})." for names, reason in zoo.MONAI_LEFT_OUT.items()]
    return [*lines, "", "timm's families without convolutional stages: " + ", ".join(zoo.TIMM_LEFT_OUT) + "."]


def table(heads, rows):
    if not rows:
        return ["None."]
    lines = ["| " + " | ".join(map(str, heads)) + " |", "|---" * len(heads) + "|"]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    write(root / "build" / "coverage", root / "docs" / "coverage.md")
