"""Coverage of networks nobody here wrote: traces, halves, verifies and exports each of a list; writes docs/coverage.md.

    pip install torchvision==0.28.0 timm==1.0.31 monai==1.6.1 einops
    python benchmarks/coverage.py                        # all libraries; networks that have a result are not run again
    python benchmarks/coverage.py monai --again failed   # or: all, stale, or names
    python benchmarks/coverage.py --page                 # only write the page from the results there are

Every network runs in a process of its own with a limit of processor time, which other work on the machine does not
use up; its result is a JSON file in `build/coverage`, which carries the digest of the code that gave it. `zoo.py` holds
the list (`wild.py` the fourth and `attention.py` the fifth, with pages of their own), `coverage_network.py` what is
done with each, `peers.py` the same for other libraries (`--peers`), `coverage_page.py` the page.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

import coverage_page
import peers
import torch
import wild_page
import zoo
from coverage_network import measure, tolerance

import secateur.spaces.tracing.trace  # noqa: F401 - before the processes part

ROOT = Path(__file__).parents[1]
SPACES = Path(secateur.spaces.__file__).parent
LIBRARIES = ("torchvision", "monai", "timm", "hybrid", "wild", "transformers")
GIGABYTES = 16


def digest():
    """Of the library's code that decides a result."""
    found = hashlib.sha256()
    for path in sorted(SPACES.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def verdict(record):
    """One word for a result."""
    if record.get("timeout"):
        return "timeout"
    if "runs" in record or record["stage"] in ("prune", "compare"):  # another library's
        return "error" if "failure" in record else "done"
    if record["stage"] in ("make", "run"):
        return "not run"
    if record["stage"] in ("trace", "costs"):
        return "not traced"
    if record["large"]:
        return "costs only"
    if record["stage"] in ("halve", "build", "verify"):
        return "not built"
    bound = tolerance(record["dtype"])
    if not (record["error"] <= bound and record["error_random"] <= bound):
        return "wrong"
    if not 0.48 <= record["ratio"] <= 0.52:
        told = sum(share for _, share in record["reasons"])
        return "short" if record["reasons"] and told >= record["frozen"] / 2 else "silent"
    return "covered" if record.get("exported") else "not exported"


# --- each in a process of its own -------------------------------------------------------------------------------------


def run(entry, path, seconds, work, code):
    """Run one network in a child process and leave its record in `path`; `seconds` are the processor's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        _child(entry, path, seconds, work, code)
    _, status, used = os.wait4(child, 0)
    record = json.loads(path.read_text())
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM):
        record["timeout"] = seconds
    elif status:
        record["failure"] = f"the process ended with status {status}"
    record["seconds"]["all"] = used.ru_utime + used.ru_stime
    record["verdict"] = verdict(record)
    save(path, record)
    return record


def save(path, record):
    """Written whole or not at all."""
    half = path.with_suffix(".half")
    half.write_text(json.dumps({name: value for name, value in record.items() if name != "write"}, indent=1))
    half.replace(path)


def _child(entry, path, seconds, work, code):
    warnings.simplefilter("ignore")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    signal.alarm(100 * int(seconds))  # for one that waits and never goes on
    record = {"library": entry.library, "name": entry.name, "code": code, "stage": "", "seconds": {}, "began": 0.0}
    record["clock"] = "processor"
    record["write"] = lambda: save(path, record)
    try:
        torch.manual_seed(0)
        work(entry, record)
    except BaseException as error:  # noqa: BLE001 - whatever happens is the result
        text = str(error).strip().splitlines()
        record["failure"] = f"{type(error).__name__}: {text[0] if text else ''}"[:400]
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if frame.filename.startswith((str(ROOT), str(SPACES)))]
        record["place"] = [f"{Path(f.filename).name}:{f.lineno}" for f in (ours[-1], frames[-1])]
        record["write"]()
    finally:
        os._exit(0)


def wanted(path, entry, again, code):
    if not path.is_file() or "all" in again or entry.name in again:
        return True
    record = json.loads(path.read_text())
    if "verdict" not in record:
        return True
    return ("stale" in again and record["code"] != code) or (
        "failed" in again and record["verdict"] not in ("covered", "costs only", "done")
    )


def sweep(library, work, arguments, folder, code):
    listed = zoo.entries(library)
    for number, entry in enumerate(listed):
        path = folder / f"{entry.name.replace('/', '_')}.json"
        if arguments.only and entry.name not in arguments.only:
            continue
        if wanted(path, entry, arguments.again, code):
            record = run(entry, path, arguments.seconds, work, code)
            print(
                f"{folder.parent.name} {library} {number + 1}/{len(listed)} {entry.name}: {record['verdict']} "
                f"({record['seconds']['all']:.0f} s) {record.get('failure', '')[:150]}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("libraries", nargs="*", default=LIBRARIES, help="of: " + ", ".join(LIBRARIES))
    parser.add_argument("--only", nargs="+", default=(), help="names of networks")
    parser.add_argument("--again", nargs="+", default=(), help="all, failed, stale (older code), or names")
    parser.add_argument("--seconds", type=float, default=300, help="of the processor, at most, for a network")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "coverage")
    parser.add_argument("--peers", nargs="+", default=(), help="these libraries instead: torch-pruning, fastnas")
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    code = digest()
    works = {peer: functools.partial(peers.measure, peer) for peer in arguments.peers} or {"": measure}
    for work in () if arguments.page else works:
        for library in arguments.libraries:
            sweep(library, works[work], arguments, arguments.cache / work / library, code)
    coverage_page.write(arguments.cache, ROOT / "docs" / "coverage.md")
    for library in ("wild", "transformers"):
        wild_page.write(arguments.cache, library, ROOT / "docs")


if __name__ == "__main__":
    sys.exit(main())
