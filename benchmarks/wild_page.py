"""The pages of the fourth list, `wild`, and the fifth, `transformers`, from the cache of the coverage sweep."""

from __future__ import annotations

import platform
import re

from coverage_page import general, mixed, read, table, version, why

PACKAGES = ("ultralytics", "transformers", "segmentation-models-pytorch", "timm", "diffusers")
PATH = (
    r"(?<= )/\S*/(?=(transformers|ultralytics|segmentation_models_pytorch|timm|diffusers|torch|benchmarks)/|model[.])"
)
PACKAGES += ("dynamic-network-architectures", "torchvision", "torch")


PAGES = {"wild": "wild.md", "transformers": "coverage_transformers.md"}
TEXTS = {
    "wild": [
        "# Networks as people have them",
        "",
        "What Secateur does with networks as their libraries and authors make them, without a wrapper: detectors,",
        "segmenters and backbones of Ultralytics, transformers, segmentation-models-pytorch, timm, nnU-Net, diffusers",
        "and torchvision, and small scripts with the habits of their fields (`benchmarks/wild.py`). Written by",
    ],
    "transformers": [
        "# Transformers and recurrent networks, measured",
        "",
        "What Secateur does with transformers of timm, transformers and torchvision, and with PyTorch's own layers,",
        "each of its library's own class with small settings (`benchmarks/attention.py`). What follows, and how, is",
        "in [Transformers](transformers.md). Written by",
    ],
}


AGAIN = "\n## Run again since"


def write(cache, library, folder):
    """Write the page of a list from `cache` into `folder`, if there are results.

    A page that has networks of which `cache` knows nothing stays, and the results become its last section; an earlier
    one goes once all of its networks are run again.
    """
    records, page = read(cache / library), folder / PAGES[library]
    if not records:
        return
    known, *earlier = page.read_text().split(AGAIN) if page.is_file() else [""]
    if _names(known) <= records.keys():
        lines = _head(records, library)
        lines += ["", *_goals(records.values(), library), *_beside(cache, library, len(records)), ""]
        lines += [*_networks(records), *_rest(records)]
    else:
        earlier = [AGAIN + one.rstrip() for one in earlier if not _names(one) <= records.keys()]
        lines = [known.rstrip(), *earlier, *_again(records)]
    page.write_text(re.sub(PATH, "", "\n".join(lines).rstrip()) + "\n")


def _names(page):
    """The networks that have a row."""
    return set(re.findall(r"^\| (\S.*?) \| (?:covered|\*\*)", page, re.MULTILINE))


def _beside(cache, library, count):
    """What Torch-Pruning does with the same list, where it was run."""
    found = list(read(cache / "torch-pruning" / library).values())
    if not found:
        return []
    given = [one for one in found if one["verdict"] != "not run"]
    half = [one for one in given if one.get("runs") and abs(one["ratio"] - 0.5) <= 0.02]
    right = sum(bool(one.get("equal")) for one in half)
    return [
        "",
        f"Torch-Pruning {version('torch-pruning')} on the same list (`--peers torch-pruning`), told what makes the",
        "output and the heads of every attention whose layers have the usual names: of",
        f"{len(given)} that could be compared, {len(half)} run at half of their MACs, {right} of these with the",
        "numbers of the full network without its channels.",
    ]


def _again(records):
    codes = ", ".join(sorted({record["code"] for record in records.values()}))
    lines = [f"{AGAIN}, with {codes}", "", "Tables above have these networks as they were, or not at all."]
    rows = [[n, r["verdict"], why(r)] for n, r in records.items() if r["verdict"] not in ("covered", "costs only")]
    return [*lines, "", *_networks(records), *(["", *table(["network", "result", "why"], rows)] if rows else [])]


def _head(records, library):
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES[:5])
    versions += ",\n" + ", ".join(f"{name} {version(name)}" for name in PACKAGES[5:])
    lines = [
        *TEXTS[library],
        f"`python benchmarks/coverage.py {library}`, each network in a process of its own, random weights, one core;",
        f"{versions}, Python {platform.python_version()}.",
        "The words are those of [Coverage](coverage.md).",
    ]
    return lines + mixed(records.values())


def _goals(records, library):
    ran = [record for record in records if record["verdict"] != "not run"]
    built = [record for record in ran if "error_random" in record]
    counts = {
        "traced": sum("groups" in record for record in ran),
        "with costs of every operator but the uncounted": sum("macs" in record for record in ran),
        "at half of their MACs (48 to 52 %)": sum(0.48 <= record.get("ratio", 1) <= 0.52 for record in ran),
        "exported in at least two formats": sum(len(record.get("exported", "").split(", ")) > 1 for record in ran),
        "built and wrong": sum(record["verdict"] == "wrong" for record in ran),
        "built, and a training step fails": sum(not _trains(record) for record in built),
    }
    if library == "transformers":
        counts["heads are an axis"] = sum(record.get("heads", 0) > 0 for record in ran)
        counts["layers are an axis"] = sum(record.get("blocks", 0) > 0 for record in ran)
        counts["a tenth of their MACs can be reached"] = sum(record.get("reachable", 0) >= 0.9 for record in ran)
    rows = [[name, count, f"{100 * count / max(len(ran), 1):.1f} %"] for name, count in counts.items()]
    return table(["networks", f"of {len(ran)} that run here", "share"], rows)


def _trains(record):
    return record.get("train", "yes") in ("yes", "nor does the full network")


def _networks(records):
    heads = ["network", "result", "parameters", "at half", "error", "train step", "MACs / counter"]
    heads += ["least MACs", "heads", "blocks", "side step", "frozen", "exported", "trace", "all"]
    rows = []
    for name, record in records.items():
        error = max(record.get("error", -1), record.get("error_random", -1))
        counter = record.get("counter")
        clock = "" if "clock" in record else " by the clock"
        rows.append(
            [
                name,
                record["verdict"] if record["verdict"] == "covered" else f"**{record['verdict']}**",
                f"{record['parameters'] / 1e6:.1f} M" if "parameters" in record else "",
                f"{100 * record['ratio']:.1f} %" if "ratio" in record else "",
                f"{error:.0e}" if error >= 0 else "",
                record.get("train", "")[:30],
                f"{record['macs'] / counter:.3f}" if counter and "macs" in record else "",
                f"{100 * (1 - record['reachable']):.1f} %" if "reachable" in record else "",
                record.get("heads", ""),
                record.get("blocks", ""),
                record.get("side_multiple", "") or "",
                f"{100 * record['frozen']:.0f} %" if "frozen" in record else "",
                record.get("exported", ""),
                f"{record['seconds']['trace']:.1f} s{clock}" if "trace" in record["seconds"] else "",
                f"{record['seconds']['all']:.0f} s{clock}",
            ]
        )
    text = [
        "*Train step*: forward, backward and a step of SGD in training, of the built network. *MACs / counter*: our",
        "multiply-adds of the full network over those of PyTorch's counter, which knows convolutions, matrix products",
        "and attention. *Least MACs*: of the smallest network. *Heads*: groups that go by several channels at once,",
        "such as heads of attention. *Blocks*: those that can be dropped. *Side step*: smaller inputs by multiples of",
        "it are taken; none: another side is refused. *Frozen*: share of the parameters that no width takes away.",
        "*Trace* and *all*: seconds of the processor; by the clock they are longer, where a machine has other work.",
        "",
    ]
    return text + table(heads, rows)


def _rest(records):
    reasons, largest = {}, {}
    for record in records.values():
        for reason, share in record.get("reasons", ()):
            reason = general(reason)
            if "network's output" not in reason:
                reasons.setdefault(reason, []).append(record["name"])
                largest[reason] = max(largest.get(reason, 0), share)
    rows = [
        [reason, len(set(names)), f"{100 * largest[reason]:.1f} %", ", ".join(dict.fromkeys(names[:3]))]
        for reason, names in sorted(reasons.items(), key=lambda item: -len(set(item[1])))
    ]
    lines = ["", "## What was left whole, and why", ""]
    lines += table(["reason", "networks", "largest share", "such as"], rows)
    rows = [[n, r["verdict"], why(r)] for n, r in records.items() if r["verdict"] not in ("covered", "costs only")]
    lines += ["", "## Networks that are not covered", "", *table(["network", "result", "why"], rows)]
    left = [[n, f, t] for n, r in records.items() for f, t in r.get("left out", {}).items()]
    told = [[name, form, text.replace("|", "\\|").replace("\n", " ")[:160]] for name, form, text in left]
    return [*lines, "", "## Formats that are left out", "", *table(["network", "format", "why"], told)]
