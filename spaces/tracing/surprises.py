"""Two runs without arithmetic, held against each other: what a smaller network does otherwise than its labels predict.

Start at `first_surprise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..channels.flow import Flow
from ..channels.labels import tensors_in
from ..channels.layout import Ids, Layout
from ..cutting.writer import Kept, left_along
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
    position = drift = 0  # the drift is that of the run of the full network, ahead of this one
    nodes = [node for node in network.operators if node not in skipped and rehearsal.steps.get(node)]
    names = [[step.name for step in rehearsal.steps[node]] for node in nodes]
    for number, node in enumerate(nodes):
        expected = rehearsal.steps[node]
        here = steps[position : position + len(expected)]
        foreseen = predicted.get(node, ())
        if [step.name for step in here] != names[number]:
            following = [name for more in names[number + 1 : number + 3] for name in more]
            resumed = _resumed(steps, position, following)
            stopped = failure is not None and position == len(steps)
            if node in constants and not stopped:  # a mask may be filled by one operator or by several
                position = resumed
                continue
            if following and resumed > position and _split(network, node, steps[resumed - 1], foreseen):
                position, drift = resumed, drift + position + len(expected) - resumed
                continue
            if len(here) == len(expected) or failure is None:
                raise LookupError(f"the run took {here} where the graph has {expected}", node)
            return node, _sized(network, node, f"it stops: {failure}")
        for step, other in zip(here, full[position + drift :], strict=False):
            if step.name != other.name:
                raise LookupError("the run took other operators than that of the full network", node)
            if differ(step.numbers, other.numbers):
                return node, NUMBER
        if said := _misshapen(network, node, here[-1], expected[-1], foreseen):
            return node, said
        position += len(expected)
    if failure is not None or position != len(steps):
        raise LookupError(f"the run has {len(steps)} steps, the graph {position}: {failure}", network.operators[-1])
    return None


class Going(TorchFunctionMode):
    """Goes on where an operator does not behave as foreseen, as if it did: the others that do not are seen too.

    A run that takes other operators than the graph ends where it fails.

    Attributes:
        odd: the operators that do not behave as foreseen, in order, each with what is said of it.
    """

    def __init__(
        self,
        network: Network,
        rehearsal: Rehearsal,
        predicted: Mapping[Node, tuple[Shape, ...]],
        full: Sequence[Step],
        odd: dict[Node, str],
        steps: list[Step],
    ) -> None:
        """Arguments as of `first_surprise`, but for `odd`, to which is added, and for `steps`, which grows."""
        super().__init__()
        self._network, self._expected, self._predicted, self._full = network, rehearsal.steps, predicted, full
        self._odd, self._steps = odd, steps
        self._left = [node for node in reversed(network.operators) if rehearsal.steps.get(node)]
        self._position = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, or give what is foreseen of the operator that it is."""
        node = self._next()
        try:
            result = func(*args, **(kwargs or {}))
        except Exception as error:
            if node is None or not self._predicted.get(node):
                raise
            self._odd[node] = _sized(self._network, node, f"it stops: {error}")
            self._steps[self._position :] = self._expected[node]
            return self._foreseen(node, args)
        said = self._said(node) if node is not None else ""
        if node is not None and said:
            self._odd[node] = said
            if said != NUMBER and isinstance(result, Tensor):
                return self._foreseen(node, args)
        return result

    def _next(self) -> Node | None:
        """The operator that comes next; None where steps are not those of the graph."""
        while self._left and self._position < len(self._steps):
            names = [step.name for step in self._expected[self._left[-1]]]
            end = self._position + len(names)
            if [step.name for step in self._steps[self._position : end]] != names:
                return None
            self._position = end
            self._left.pop()
        return self._left[-1] if self._left and self._position == len(self._steps) else None

    def _said(self, node: Node) -> str:
        """What is odd of an operator that was just called; nothing where it took no step, or other ones."""
        here, expected = self._steps[self._position :], self._expected[node]
        if [step.name for step in here] != [step.name for step in expected]:
            foreseen = self._predicted.get(node, ())
            if here and not self._several(here) and _split(self._network, node, here[-1], foreseen):
                self._steps[self._position :] = expected
            return ""
        full = self._full[self._position : self._position + len(here)]
        if any(differ(one.numbers, other.numbers) for one, other in zip(here, full, strict=False)):
            return NUMBER
        return _misshapen(self._network, node, here[-1], expected[-1], self._predicted.get(node, ()))

    def _several(self, here: Sequence[Step]) -> bool:
        """Whether one call took the steps of several operators, as `1 / x` does."""
        names: list[str] = []
        for node in reversed(self._left):
            names += [step.name for step in self._expected[node]]
            if len(names) >= len(here):
                break
        return names == [step.name for step in here]

    def _foreseen(self, node: Node, args: Any) -> Tensor | tuple[Tensor, ...]:
        given = next(one for one in pytree.tree_leaves(args) if isinstance(one, Tensor))
        shapes, dtype = self._predicted[node][: len(results(self._network, node))], self._network.dtypes[node]
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():  # no step of the run
            made = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
            if isinstance(given, FakeTensor):
                made = [FakeTensor(given.fake_mode, one, given.device) for one in made]
        return made[0] if isinstance(self._network.shapes[-1][node], tuple) else tuple(made)


def _misshapen(network: Network, node: Node, step: Step, expected: Step, foreseen: tuple[Shape, ...]) -> str:
    """What is said of an operator that gives other shapes than foreseen; nothing where it gives these."""
    own, found = results(network, node), step.shapes[: len(foreseen)]
    if expected.shapes[: len(own)] != own or found == foreseen:
        return ""
    given, wanted = (", ".join(map(str, shapes)) for shapes in (found, foreseen))
    return _sized(network, node, f"it gives {given} instead of {wanted}")


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


class Foreseen:
    """Shapes of what each operator gives when only some units stay; of a group norm's statistics too.

    Of what no output is made of nothing is foreseen. Unit numbers of labels are found once for each grouping.
    """

    def __init__(self, network: Network, flow: Flow) -> None:
        self._network = network
        self._values: dict[Node, list[tuple[Shape, list[Tensor]]]] = {}
        for node in (one for one in network.operators if one not in flow.unread):
            shapes, labels = results(network, node), flow.values[node]
            values = [labels] if len(shapes) == 1 else [one for one in labels if one is not None]
            self._values[node] = list(zip(shapes, map(tensors_in, values), strict=True))
        self._of: Ids | None = None
        self._ids: dict[int, Ids] = {}  # by labels, which the flow keeps

    def __call__(self, layout: Layout, whole: frozenset[Node], stays: Kept) -> dict[Node, tuple[Shape, ...]]:
        """By node; `whole` are grouped operators that lose whole blocks."""
        if self._of is not layout.unit_of_label:
            self._of, self._ids = layout.unit_of_label, {}
        known: dict[int, dict[int, int]] = {}

        def left(labels: Tensor) -> dict[int, int]:
            key = id(labels)
            if key not in known:
                ids = self._ids[key] if key in self._ids else self._ids.setdefault(key, layout.ids(labels))
                known[key] = left_along(ids, stays)
            return known[key]

        found = {}
        for node, values in self._values.items():
            small: tuple[Shape, ...] = ()
            for shape, labels in values:
                changed = {axis: count for one in labels for axis, count in left(one).items()}
                small += (tuple(changed.get(axis, size) for axis, size in enumerate(shape)) if changed else shape,)
            if self._network.names[node] == "aten.group_norm":
                shape, groups = values[0][0], int(str(node.args[1]))
                if node in whole or groups == shape[1]:
                    groups = groups * small[0][1] // shape[1]
                small = (*small, (shape[0], groups))
            found[node] = small
        return found


def _split(network: Network, node: Node, last: Step, foreseen: tuple[Shape, ...]) -> bool:
    """Whether PyTorch may split an operator otherwise at other sizes, as a product where an axis has one element.

    It calculates with no number then, and the last step gives what is foreseen.
    """
    numbers = numbers_of(node.target, node.args, node.kwargs, network.shapes[-1].__getitem__)
    return bool(foreseen) and not any(True for _ in numbers) and last.shapes[: len(foreseen)] == foreseen


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
