"""Which files and functions one trip through the library takes, in order.

    python benchmarks/walks.py [--show "one trial"] [--json]

Prints, for each trip of a small network, the files that it opens, the functions that it calls, and how often it moves
from one file to another; and how many modules `secateur.Study` loads. `--show` names a trip's functions in the order of
their first call: the way to read along. benchmarks/house.py puts the figures into its table.

"one trial" is a whole run of the third trial: taking the lock, reading two trials, asking, building, training, telling,
giving the lock back. The sixth has more trials to read, and enough of them for rank correlations at its end. "ask,
evaluate, tell" is a trial in a loop of one's own, by three calls.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import secateur as sc


@dataclass(frozen=True)
class Walk:
    """The calls of one trip: for each the file, from the root, and the function."""

    calls: list[tuple[str, str]]

    @property
    def files(self) -> int:
        """How many different files it opens."""
        return len({file for file, _ in self.calls})

    @property
    def moves(self) -> int:
        """How often a call stands in another file than the call before it."""
        return sum(a != b for (a, _), (b, _) in zip(self.calls, self.calls[1:], strict=False))

    def __str__(self) -> str:
        return f"{self.files} files, {len(set(self.calls))} functions, {self.moves} moves"


def main() -> None:
    """Take the trips and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--show", metavar="TRIP", help="print a trip's functions in the order of their first call")
    asked = parser.parse_args()
    sc.Study  # noqa: B018 - what it loads is counted
    loaded = sum(name.split(".")[0] == "secateur" for name in sys.modules)
    with tempfile.TemporaryDirectory() as folder:
        walks = trips(Path(folder))
    figures = {name: str(walk) for name, walk in walks.items()} | {"modules that `secateur.Study` loads": loaded}
    if asked.show:
        print(*(f"{file}: {function}" for file, function in dict.fromkeys(walks[asked.show].calls)), sep="\n")
    else:
        print(json.dumps(figures) if asked.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))


def trips(folder: Path) -> dict[str, Walk]:
    """Each trip by its name; the study is made, run twice and exported once before, so that all is imported."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    inner = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    model = nn.Sequential(*inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    images, labels = torch.rand(32, 1, 8, 8), torch.arange(32) % 4
    task = sc.Classification(train=(images, labels), validation=(images, labels), test=(images, labels), batch=16)
    example = torch.rand(1, 1, 8, 8)
    space = sc.Space.trace(model, example, divisor=2)
    study = sc.Study.create(
        folder / "study",
        model=model,
        task=task,
        space=space,
        budget=sc.Budget(macs=0.8),
        training=sc.Training(recalibration_images=32),
        search=sc.Search(sampler="random", batch=1, seeds=("full",)),
    )
    study.run(2)
    study.export(folder / "warm", pick="best", finetune_epochs=0)

    def own_loop() -> None:
        trial = study.ask()
        assert trial is not None
        study.tell(trial, study.evaluate(trial))

    walks = {
        "trace": walked(lambda: sc.Space.trace(model, example, divisor=2)),
        "build": walked(lambda: sc.build(model, space, space.uniform(0.5))),
        "one trial": walked(lambda: study.run(3)),
        "front": walked(study.front),
        "export": walked(lambda: study.export(folder / "out", pick="best", finetune_epochs=1)),
    }
    study.run(5)
    walks["one trial, the sixth"] = walked(lambda: study.run(6))
    own_loop()
    return walks | {"ask, evaluate, tell": walked(own_loop)}


def walked(trip: Callable[[], object]) -> Walk:
    """The calls that `trip` makes inside the package, on this thread."""
    root = str(Path(sc.__file__).parent)
    calls = []

    def call(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        inside = code.co_filename.startswith(f"{root}/") and code.co_filename != __file__
        ours = inside and ".venv" not in code.co_filename
        if event == "call" and ours and code.co_flags & inspect.CO_OPTIMIZED:  # neither a module nor a class body
            calls.append((code.co_filename[len(root) + 1 :], code.co_qualname))

    sys.setprofile(call)
    try:
        trip()
    finally:
        sys.setprofile(None)
    return Walk([(file, name) for file, name in calls if not file.endswith("__init__.py")])


if __name__ == "__main__":
    main()
