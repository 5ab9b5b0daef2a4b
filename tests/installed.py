"""A package that adds methods, samplers and readers, as if it were installed: a module and its metadata in a folder."""

SOURCE = '''
import optuna
import torch

from secateur.pruners import Proposal, criterion
from secateur.spaces import unit_sums
from secateur.studies.study_files.data import ImageSet


class Thin:
    """As wide as the limits allow, all groups alike."""

    name, needs, allocates, selects, weights = "thin", "nothing", True, False, "inherited"

    def __init__(self, start=1.0):
        self.start = start

    def propose(self, request):
        candidate = request.space.repair(request.space.uniform(self.start), request.limits)
        return Proposal(candidate=candidate, scores=request.space.default_scores)


@criterion("spread")
def spread(model, space, examples=None):
    return unit_sums(space, model, lambda tensor, axes: tensor.var(axes, correction=0))


def spin(seed, problem):
    return optuna.samplers.RandomSampler(seed=seed)


def stripes(path=None):
    labels = torch.arange(40) % 2
    images = torch.zeros(40, 1, 8, 8)
    images[labels == 0, :, ::2] = 1
    images[labels == 1, :, :, ::2] = 1
    return ImageSet(train=(images, labels))


def no_images(path):
    return [1, 2]


def of_nothing():
    return None


class NoMethod:
    name, needs, weights = "no-method", "nothing", "inherited"


def one_argument(seed):
    return optuna.samplers.RandomSampler(seed=seed)
'''

POINTS = """
[secateur.pruners]
thin = mine:Thin
spread = mine:spread
taylor = mine:Thin
no-method = mine:NoMethod
other-name = mine:Thin
gone = not_there:Thin

[secateur.samplers]
spin = mine:spin
one-argument = mine:one_argument
nothing = mine:POINT

[secateur.readers]
stripes = mine:stripes
no-images = mine:no_images
of-nothing = mine:of_nothing
folder = mine:stripes
"""


def install(folder, name="mine"):
    """Write the package `name` 1.5 into a folder that is on `sys.path`."""
    (folder / "mine.py").write_text(SOURCE)
    metadata = folder / f"{name}-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (metadata / "entry_points.txt").write_text(POINTS)
