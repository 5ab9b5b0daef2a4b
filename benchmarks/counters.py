"""Our costs beside those of other counters and of the real allocators, on built networks.

    pip install --no-deps fvcore iopath yacs portalocker tabulate termcolor tqdm ptflops thop
    python benchmarks/counters.py

Prints two tables, for each network full and at half width. The first holds the multiply-adds by our arithmetic and by
PyTorch's counter (on the meta device and on the CPU), fvcore, ptflops and thop; below it what fvcore counts of each
kind. The second holds our `peak_bytes` and the real peak: parameters and input, and the largest sum of what the
allocator gave out during a forward of one example, seen by PyTorch's profiler on the CPU and by `max_memory_allocated`
where there is a CUDA device. `docs/costs.md` explains the differences.
"""

import copy
import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import argparse  # noqa: E402
import contextlib  # noqa: E402
import io  # noqa: E402
import logging  # noqa: E402
import warnings  # noqa: E402

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

import torch  # noqa: E402
from models import Functional, networks  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from secateur.spaces import Space, build  # noqa: E402
from secateur.spaces.costs import measured_peak  # noqa: E402


def by_torch(model, x):
    return _by_torch(copy.deepcopy(model).to("meta"), x.to("meta"))


def by_torch_cpu(model, x):
    return _by_torch(model, x)


def _by_torch(model, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


def fvcore(model, x):
    from fvcore.nn import FlopCountAnalysis

    return FlopCountAnalysis(copy.deepcopy(model), x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)


def by_fvcore(model, x):
    return fvcore(model, x).total()


def by_ptflops(model, x):
    from ptflops import get_model_complexity_info

    shape = tuple(x.shape[1:])
    return get_model_complexity_info(
        copy.deepcopy(model), shape, as_strings=False, print_per_layer_stat=False, backend="pytorch"
    )[0]


def by_thop(model, x):
    from thop import profile as count

    return count(copy.deepcopy(model), inputs=(x,), verbose=False)[0]


COUNTERS = {
    "torch, meta": by_torch,
    "torch, CPU": by_torch_cpu,
    "fvcore": by_fvcore,
    "ptflops": by_ptflops,
    "thop": by_thop,
}


def said(counter, model, x):
    """A counter's figure, or why there is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            return f"{int(counter(model, x)):,}"
    except ImportError:
        return "not installed"
    except Exception as error:  # noqa: BLE001 - other counters raise what they like
        return type(error).__name__


def cuda_peak(model, x):
    """The same by the CUDA allocator."""
    return measured_peak()(copy.deepcopy(model).cuda(), (x.cuda(),))


def table(rows):
    """A table of Markdown, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")
        if number == 0:
            print("|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    devices = {
        "CPU": lambda model, x: measured_peak()(model, (x,)),
        **({"CUDA": cuda_peak} if torch.cuda.is_available() else {}),
    }
    macs, kinds = [("network", "ours", *COUNTERS)], []
    peaks = [("network", "our peak_bytes", *(word for name in devices for word in (f"{name} peak", "ratio")))]
    for name, (make, x) in {**networks(), "functional@64": (Functional, torch.randn(1, 3, 64, 64))}.items():
        model = make().eval()
        space = Space.trace(model, x)
        for title, candidate in ((name, space.full), ("  half width", space.uniform(width=0.5))):
            small = build(model, space, candidate)
            costs = space.costs([candidate]).iloc[0]
            macs.append((title, f"{costs.macs:,}", *(said(counter, small, x) for counter in COUNTERS.values())))
            if candidate == space.full:
                with contextlib.suppress(ImportError):
                    found = fvcore(small, x).by_operator()
                    kinds.append(f"- {name}: {', '.join(f'{kind} {int(n):,}' for kind, n in found.items())}")
            row = [title, f"{costs.peak_bytes:,}"]
            for peak in devices.values():
                found = peak(small, x)
                row += [f"{found:,.0f}", f"{found / costs.peak_bytes:.2f}"]
            peaks.append(row)
    print("Multiply-adds of one example\n")
    table(macs)
    print("What fvcore counts, by operator\n")
    print("\n".join(kinds), end="\n\n")
    print("Peak bytes of one example\n")
    table(peaks)


if __name__ == "__main__":
    main()
