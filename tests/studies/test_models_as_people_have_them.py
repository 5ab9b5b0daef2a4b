"""Networks with members that a plain copy trips over: a study takes what tracing and building take."""

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import secateur as sc

IMAGES, LABELS = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4


def plain():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    return nn.Sequential(*layers)


def pruned():
    net = plain()
    prune.l1_unstructured(net[0], "weight", 0.3)
    return net


def weight_normed():
    net = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(net[0])
    return net


def spectral_normed():
    net = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.spectral_norm(net[2])
    return net


def locked():
    net = plain()
    net.lock, net[0].locks = threading.Lock(), {"a": [threading.Lock()], "b": 3}
    return net


def logging_file():
    net = plain()
    net.log = open("/dev/null")  # noqa: SIM115 - as people leave one
    return net


def hooked():
    """A hook keeps activations with a history."""
    net, seen = plain(), {}
    net[0].register_forward_hook(lambda module, given, found: seen.__setitem__("first", found))
    net[0].seen = seen
    net(IMAGES)
    return net


@pytest.mark.parametrize(
    "make", [pruned, weight_normed, spectral_normed, locked, logging_file, hooked], ids=lambda make: make.__name__
)
def test_a_study_takes_what_building_takes(make, tmp_path):
    model = make()
    space = sc.Space.trace(model, IMAGES[:1], divisor=1)
    task = sc.Classification(train=(IMAGES, LABELS), validation=(IMAGES, LABELS), test=(IMAGES, LABELS), batch=8)
    training = sc.Training(recalibration_images=16, short_epochs=1)
    parts = {"model": model, "task": task, "space": space, "budget": sc.Budget(macs=0.8), "training": training}
    study = sc.Study.create(tmp_path / "study", **parts, search=sc.Search(threads=1), expect_error="untrained")
    study.run(2)
    assert (study.trials().state == "complete").all()
    (folder,) = study.export(tmp_path / "out", finetune_epochs=1, formats=())
    with torch.no_grad():
        assert sc.load(folder, model=model)(IMAGES).shape == (16, 4)
    if hasattr(model, "log"):
        model.log.close()


class Recorder:
    """Holds a tensor of the network and a lock."""

    def __init__(self, weight):
        self.weight, self.lock = weight, threading.Lock()


def test_what_can_be_neither_copied_nor_shared_is_named():
    model = plain()
    model[2].recorder = Recorder(model[2].weight)
    with pytest.raises(TypeError, match=r"the network's 2\.recorder, a Recorder, cannot be copied .*lock.*remove it"):
        sc.Space.trace(model, IMAGES[:1], divisor=1)


def test_a_program_that_compiles_something_copies_them_too():
    """torch.compile replaces what every module does when it is unpickled."""
    from torch._dynamo.mutation_guard import install_generation_tagging_init

    install_generation_tagging_init()
    for make in (pruned, locked):
        space = sc.Space.trace(make(), IMAGES[:1], divisor=1)
        assert space.groups
