"""Two runs without arithmetic, held against each other: what a smaller network does otherwise than its labels predict.

Start at `first_surprise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch.fx import Node

from ..graph.network import Network, Number, Rehearsal, Shape, Step
from .probe import FOLLOW, differ, numbers_of

_SIZES = {*FOLLOW, "start", "end", "num_groups"} - {"N", "C", "HxW"}  # that a forward may write down
WRITTEN = "a size is written as a constant, or taken from other channels,"
ODD = "the forward, run with fewer of its channels, does not behave as their labels predict"
NUMBER = "it is calculated with the number of its channels"


def first_surprise(
    network: Network,
    rehearsal: Rehearsal,
    steps: Sequence[Step],
    failure: Exception | None,
    predicted: Mapping[Node, tuple[Shape, ...]],
    skipped: frozenset[Node],
    constants: frozenset[Node] = frozenset(),
    full: Sequence[Step] = (),
) -> tuple[Node, str] | None:
    """What happens first, and the node: a result of another shape than predicted, other numbers, the end of the run.

    Args:
        network: the captured graph.
        rehearsal: its run.
        steps: the run that is compared.
        failure: what ended it.
        predicted: shapes of the results, by node.
        skipped: nodes that are not run.
        constants: nodes whose values do not depend on the inputs.
        full: a run of the full network, whose numbers are those that the forward writes down; none where blocks are
            gone, which leave no number behind.

    Raises:
        LookupError: the run took other operators than the graph, so the two cannot be compared; the second argument is
            the node at which they part.
    """
    position = 0
    nodes = [node for node in network.operators if node not in skipped and rehearsal.steps.get(node)]
    names = [[step.name for step in rehearsal.steps[node]] for node in nodes]
    others, parting = _compared(steps, full)
    for number, node in enumerate(nodes):
        expected = rehearsal.steps[node]
        here = steps[position : position + len(expected)]
        if [step.name for step in here] != names[number]:
            if node in constants:  # a mask may be filled by one operator or by several
                position = _resumed(steps, position, [name for more in names[number + 1 : number + 3] for name in more])
                continue
            if len(here) == len(expected) or failure is None:
                raise LookupError(f"the run took {here} where the graph has {expected}", node)
            return node, _sized(network, node, f"it stops: {failure}")
        if not others.isdisjoint(range(position, position + len(expected))):
            return node, NUMBER
        if parting < position + len(expected):
            raise LookupError("the run took other operators than that of the full network", node)
        own, foreseen = results(network, node), predicted.get(node, ())
        if expected[-1].shapes[: len(own)] == own and here[-1].shapes[: len(foreseen)] != foreseen:
            given, wanted = (", ".join(map(str, shapes)) for shapes in (here[-1].shapes[: len(foreseen)], foreseen))
            return node, _sized(network, node, f"it gives {given} instead of {wanted}")
        position += len(expected)
    if failure is not None or position != len(steps):
        raise LookupError(f"the run has {len(steps)} steps, the graph {position}: {failure}", network.operators[-1])
    return None


def _sized(network: Network, node: Node, what: str) -> str:
    """Why an operator does not go with fewer channels: a size that it is given, or else what happens."""
    names = {argument.name for argument in getattr(getattr(node.target, "_schema", None), "arguments", ())}
    if names & _SIZES:
        return WRITTEN
    return f"{network.names[node]} does not go with fewer of its channels ({' '.join(what.split())[:120]})"


def results(network: Network, node: Node) -> tuple[Shape, ...]:
    """Shapes of the tensors that an operator gives, at the largest side."""
    shapes = network.shapes[-1][node]
    return (shapes,) if isinstance(shapes, tuple) else tuple(shape for shape in shapes if shape is not None)


def _compared(steps: Sequence[Step], full: Sequence[Step]) -> tuple[set[int], float]:
    """Where a run calculates with other numbers than that of the full network, and where it takes other operators."""
    others = set[int]()
    for place, (one, other) in enumerate(zip(steps, full, strict=False)):
        if one.name != other.name:
            return others, place
        if differ(one.numbers, other.numbers):
            others.add(place)
    return others, float("inf")


def _resumed(steps: Sequence[Step], position: int, names: list[str]) -> int:
    """Where a run comes to operators of these names again, soon after a position; else the position."""
    for start in range(position, position + 8):
        if [step.name for step in steps[start : start + len(names)]] == names:
            return start
    return position


def first_difference(
    network: Network, other: Network, predicted: Mapping[Node, tuple[Shape, ...]], skipped: frozenset[Node]
) -> Node | None:
    """As `first_surprise`, from a second capture of the smaller network instead of a run."""
    theirs = iter([twin for twin in other.operators if other.names[twin] != "aten.contiguous"])
    for node in network.operators:
        if node in skipped or network.names[node] == "aten.contiguous":  # export leaves out those that change nothing
            continue
        twin = next(theirs, None)
        if twin is None or other.names[twin] != network.names[node]:
            return node
        if node in predicted and results(other, twin) != predicted[node][: len(results(other, twin))]:
            return node
        if not skipped and differ(_written(network, node), _written(other, twin)):
            return node
    return None


def _written(network: Network, node: Node) -> list[Number]:
    """The plain values and constants that an operator of a graph calculates with."""
    constants = [network.constants[source.name] for source in node.all_input_nodes if source.name in network.constants]
    values = [(0, (str(one.dtype), tuple(one.shape), one.tolist())) for one in constants]
    return [*numbers_of(node.target, node.args, node.kwargs, network.shapes[-1].__getitem__), *values]
