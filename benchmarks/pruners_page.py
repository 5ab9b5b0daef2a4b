"""docs/pruners.md, of the cells that benchmarks/pruners.py kept: tables, and what they say."""

from __future__ import annotations

import json
import statistics

from fashion import mean_and_error
from scipy.stats import t as student

from pruners import BASE_EPOCHS, EPOCHS, PEERS, ROWS, SHARES, kept

STAGES = {
    "cut": "cut",
    "recalibrated": "recalibrated",
    "reconstructed": "solved",
    "one": "1 epoch",
    "many": "all epochs",
}
"""Kept as, shown as."""

INTRODUCTION = """# Pruning methods, each alone

{advice}

## What was measured

One residual network of 8 layers ({width} multiply-adds at 16x16) tells 100 characters apart: letters, digits, accents
and signs, rendered from 15 families of fonts to train on and tested on 25 others (2,500 pictures). Labels are exact,
but the pictures are drawn, no photographs. {epochs} epochs follow the base network's {base}: a method that prunes while
it trains uses {phase} of them for that. The full network errs on {full} %.

Test errors in per cent, means over the seeds, of the network as it is *cut*; *recalibrated*: batch norms measured anew;
*solved*: instead, layers solved for what the full network's give, from 512 pictures without labels (only where weights
are slices of the full network's); and after *1 epoch* and *all epochs* of training from the recalibrated network.
*Less uniform* is the difference to `uniform` after all epochs, in points, paired by seed, with the 95 % interval of the
mean (Student's t; with 3 seeds it is wide, with 1 or 2 none is given). Seconds are processor seconds of one core for
scoring and choosing, or for the pruning phase: medians, of a machine that did other things meanwhile. No test error
chose anything.

    python benchmarks/pruners.py --seeds 5
    python benchmarks/pruners.py --seeds 5 --page

`torch-pruning` is Torch-Pruning 1.6.1 with group-L1 and group-Taylor importance, global ranking, at most the same
multiply-adds, trained by the same loop. `mlpruning` is of transformers and has no row.

Commits: {commits}."""

ADVICE = """With few examples and few epochs, five seeds each. *Alone*: `osscar`, which ends 3.4 ± 2.2 points
below `uniform` at 15 % and 10.8 ± 8.5 at 5 %; then `wanda` (2.5 ± 2.4 and 5.4 ± 4.2); at 5 % also
`l2` (13.1 ± 4.7), `thinet` (8.7 ± 3.7), `l1` (6.6 ± 5.5) and `flap` (4.9 ± 4.8). At 30 % no method
ends below `uniform` by more than its interval. *Seeds* of a search: two or three whose widths differ,
such as `uniform`, `l2` and `osscar`. *Not* in a schedule as short as this: `resrep`, `aofp`, `granet`,
`group-lasso` and `orthoreg`, whose three epochs of pruning are 36 steps here; nor `epruner` and
`manidp`. *Not* at tight budgets: `ranp` (`ranp-f` is in the field), `synflow`, `grasp` and `lamp`; and
`taylor`, `obd`, `hrank` and `ranp-p`, whose means at 15 and 5 % are above that of `random`. `l1` ends
as Torch-Pruning's does; so does `taylor`, but for 5 %, where it ends 10.5 ± 5.8 points above. Of
more than a hundred intervals of 95 %, some miss by chance: those of `wanda` at 15 % and of `flap` at
5 % clear zero by a tenth only."""


def rows(seeds):
    """`{(method, share): cells of all seeds}` of what is kept."""
    found = {}
    for name in ROWS:
        for share in SHARES:
            paths = [kept(name, share, seed) for seed in range(seeds)]
            cells = [json.loads(path.read_text()) for path in paths if path.exists()]
            if cells:
                found[name, share] = cells
    return found


def mean(cells, stage):
    values = [100 * cell["errors"][stage] for cell in cells if stage in cell["errors"]]
    return f"{statistics.mean(values):.1f}" if values else "-"


def paired(cells, others, stage):
    """Mean difference over the seeds that both have, with its interval from three on; and how many."""
    theirs = {cell["seed"]: cell["errors"].get(stage) for cell in others}
    gaps = [
        100 * (cell["errors"][stage] - theirs[cell["seed"]])
        for cell in cells
        if stage in cell["errors"] and theirs.get(cell["seed"]) is not None
    ]
    if not gaps:
        return "-"
    middle, error = mean_and_error(gaps)
    if len(gaps) < 3:
        return f"{middle:+.1f} ({len(gaps)} seed{'s' * (len(gaps) > 1)})"
    return f"{middle:+.1f} ± {error * student.ppf(0.975, len(gaps) - 1):.1f}"


def table(found, share):
    here = {name: cells for (name, at), cells in found.items() if at == share and name != "full"}
    order = sorted(here, key=lambda name: statistics.mean(cell["errors"]["many"] for cell in here[name]))
    out = ["", f"## At most {share:.0%} of the multiply-adds", ""]
    out += [f"| method | seeds | {' | '.join(STAGES.values())} | less uniform | MACs | seconds |", "| --- " * 10 + "|"]
    for name in order:
        cells = here[name]
        shown = [str(len(cells)), *(mean(cells, stage) for stage in STAGES)]
        shown.append(paired(cells, here.get("uniform", []), "many"))
        shown.append(f"{statistics.mean(cell['macs'] for cell in cells):.3f}")
        shown.append(f"{statistics.median(cell['seconds'] for cell in cells):.1f}")
        out.append(f"| `{name}` | {' | '.join(shown)} |")
    return out


def page(seeds):
    """The page's text."""
    found = rows(seeds)
    cells = [cell for group in found.values() for cell in group]
    out = INTRODUCTION.format(
        advice=ADVICE,
        width="0.77 million",
        epochs=EPOCHS,
        base=BASE_EPOCHS,
        phase=EPOCHS // 2,
        full=mean(found["full", SHARES[0]], "cut"),
        commits=", ".join(sorted({cell["commit"] for cell in cells})),
    ).splitlines()
    for share in sorted(SHARES, reverse=True):
        if any(at == share for _, at in found):
            out += table(found, share)
    out += ["", "## Against the same criterion in Torch-Pruning", ""]
    out += ["Differences in points, ours less theirs, paired by seed.", ""]
    out += [f"| pair | MACs | {' | '.join(STAGES.values())} |", "| --- " * 7 + "|"]
    for twin, name in PEERS.items():
        for share in sorted(SHARES, reverse=True):
            ours, theirs = found.get((name, share), []), found.get((twin, share), [])
            if ours and theirs:
                gaps = " | ".join(paired(ours, theirs, stage) for stage in STAGES)
                out.append(f"| `{name}` less {twin} | {share} | {gaps} |")
    return "\n".join(out) + "\n"
