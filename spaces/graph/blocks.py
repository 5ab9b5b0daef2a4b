"""Which blocks may be dropped: submodules whose output reaches their input by an identity path through an addition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.fx import Node

from .network import Network, operator_name

_PASSES = {
    f"aten.{name}"
    for name in (
        "relu relu6 hardtanh gelu silu mish elu celu selu leaky_relu hardswish sigmoid tanh softplus dropout "
        "feature_dropout clone contiguous alias detach hardsigmoid"
    ).split()
}
_ADDS = {"aten.add"}


@dataclass(frozen=True)
class Block:
    """A removable submodule: its nodes, the value it takes and the value it gives."""

    name: str
    nodes: frozenset[Node]
    entry: Node
    exit: Node


@dataclass(frozen=True)
class Stage:
    """Blocks that follow one another.

    Attributes:
        name: of their common parent, or of the first block where the parent holds several stages.
        blocks: module names, first to last.
        order: the same names in the order of removal; the last block goes first unless the user says otherwise.
    """

    name: str
    blocks: tuple[str, ...]
    order: tuple[str, ...]

    def removed(self, kept: int) -> tuple[str, ...]:
        """The blocks that are gone when `kept` stay."""
        return self.order[: len(self.blocks) - kept]


def find_blocks(network: Network, plain: Sequence[str] = ()) -> list[Block]:
    """The removable blocks in the order of the network, innermost only.

    Args:
        network: the captured graph.
        plain: names of blocks that may go too though no identity path leads around them.

    Raises:
        ValueError: a plain block does not give what it takes.
    """
    inside: dict[str, list[Node]] = {}
    for node in network.graph.nodes:
        if node.op == "call_function":
            for path in dict.fromkeys(network.calls[node]):
                if path:
                    inside.setdefault(path, []).append(node)
    weighted = {name.rpartition(".")[0] for name in network.sources.values()}
    found = [
        block
        for path, nodes in inside.items()
        if path not in network.repeated
        and any(module == path or module.startswith(f"{path}.") for module in weighted)
        and (block := _block(network, path, nodes, path in plain)) is not None
    ]
    for name in plain:
        if not any(block.name == name for block in found):
            raise ValueError(
                f"plain_blocks names {name!r}, which takes several values, is called several times or gives another "
                "shape than it takes; name blocks that the identity can replace"
            )
    names = [block.name for block in found]
    return [block for block in found if not any(name.startswith(f"{block.name}.") for name in names)]


def chain(blocks: Sequence[Block]) -> list[Stage]:
    """Stages of blocks that follow one another directly."""
    chains: list[list[Block]] = []
    for block in blocks:
        if chains and chains[-1][-1].exit is block.entry:
            chains[-1].append(block)
        else:
            chains.append([block])
    parents = [run[0].name.rpartition(".")[0] for run in chains]
    stages = []
    for run, parent in zip(chains, parents, strict=True):
        name = parent if parent and parents.count(parent) == 1 else run[0].name
        names = tuple(block.name for block in run)
        stages.append(Stage(name, names, names[::-1]))
    return stages


def reordered(stages: Sequence[Stage], scores: Mapping[str, Sequence[float] | Tensor]) -> tuple[Stage, ...]:
    """Stages in which the block with the lowest score goes first; the last of equal ones.

    Args:
        stages: as they are.
        scores: `{stage: (blocks,) scores in the order of the network}`; stages not named keep their order.

    Raises:
        ValueError: another stage, or another number of scores than blocks.
    """
    names = [stage.name for stage in stages]
    for name in scores:
        if name not in names:
            raise ValueError(f"block order names {name!r}; the stages are {names}")
    found = []
    for stage in stages:
        if stage.name in scores:
            values = [float(value) for value in scores[stage.name]]
            if len(values) != len(stage.blocks):
                raise ValueError(f"{stage.name} has {len(stage.blocks)} blocks; got {len(values)} scores")
            ranked = sorted(range(len(values)), key=lambda i: (values[i], -i))
            stage = replace(stage, order=tuple(stage.blocks[i] for i in ranked))
        found.append(stage)
    return tuple(found)


def places(stages: Sequence[Stage], orders: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """Scores by which blocks go in these orders, `{stage: blocks}`; of the stages that they name."""
    return {
        stage.name: [float(orders[stage.name].index(block)) for block in stage.blocks]
        for stage in stages
        if stage.name in orders
    }


def inside(blocks: Mapping[str, Block]) -> dict[Node, str]:
    """The name of the removable block that a node is in."""
    return {node: name for name, block in blocks.items() for node in block.nodes}


def _block(network: Network, path: str, nodes: list[Node], plain: bool) -> Block | None:
    members = frozenset(nodes)
    tensors = network.shapes[-1]
    entries = {
        source
        for node in nodes
        for source in node.all_input_nodes
        if source not in members and source not in network.sources and source in tensors
    }
    exits = {node for node in nodes if any(user not in members for user in node.users)}
    exits &= {node for node in nodes if node in tensors}
    numbers_leave = any(node not in tensors and any(user not in members for user in node.users) for node in nodes)
    if len(entries) != 1 or len(exits) != 1 or numbers_leave:
        return None
    entry, end = next(iter(entries)), next(iter(exits))
    if entry.op == "get_attr" or any(shapes[entry] != shapes[end] for shapes in network.shapes):
        return None
    if network.dtypes.get(entry) != network.dtypes.get(end):
        return None
    if not plain and not _identity(end, entry, members):
        return None
    return Block(path, members, entry, end)


def _identity(end: Node, entry: Node, members: frozenset[Node]) -> bool:
    """Whether a path of sums, `x - f` too, and activations, with one sum at least, leads from `entry` to `end`."""
    waiting, seen = [(end, False)], set[tuple[Node, bool]]()
    while waiting:
        node, added = waiting.pop()
        if node is entry and added:
            return True
        if node not in members or (node, added) in seen:
            continue
        seen.add((node, added))
        name = operator_name(node)
        if name in _ADDS and node.kwargs.get("alpha", 1) == 1:
            waiting += [(arg, True) for arg in node.args[:2] if isinstance(arg, Node)]
        elif name == "aten.sub" and isinstance(node.args[0], Node):  # x - f(x), not f(x) - x
            waiting.append((node.args[0], True))
        elif name in _PASSES and node.args and isinstance(node.args[0], Node):
            waiting.append((node.args[0], added))
    return False
