"""A package that adds methods and samplers, as if it were installed: a module and its metadata in a folder."""

SOURCE = '''
import optuna

from secateur.pruners import Proposal, criterion
from secateur.spaces import unit_sums


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
"""


def install(folder, name="mine"):
    """Write the package `name` 1.5 into a folder that is on `sys.path`."""
    (folder / "mine.py").write_text(SOURCE)
    metadata = folder / f"{name}-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (metadata / "entry_points.txt").write_text(POINTS)
