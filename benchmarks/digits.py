"""Trains the network that comes with the package, `sc.networks.digits()`, and writes its weights there.

python benchmarks/digits.py            # trains and prints its errors
python benchmarks/digits.py --write    # and writes studies/study_files/digits.safetensors

It learns from the training split of `sc.data.Data(reader="mnist5k")` alone, so that its errors on the other two are
honest ones.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import secateur as sc
from secateur.evaluators import Augment, measure_error, train
from secateur.evaluators.modes import reproducible
from secateur.studies.study_files import networks

PLACE = Path(networks.__file__).with_name("digits.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args()
    augment = Augment(shift=0.1, rotate=10.0, scale=0.1)
    task = sc.data.Data(reader="mnist5k", batch=64, mean=[0.1307], std=[0.3081], augment=augment).task()
    with reproducible(1, torch.device("cpu")):
        model = networks.digits(trained=False)
        train(model, task, sc.Training(lr=0.1, warmup=0.1), epochs=given.epochs)
    for split in ("validation", "test"):
        found = measure_error(model.eval(), task, split=split)
        print(f"{split} error {found.compute():.2%} of {task.sizes[split]}")
    print(f"{sum(one.numel() for one in model.parameters()):,} parameters")
    if given.write:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, PLACE)


if __name__ == "__main__":
    main()
