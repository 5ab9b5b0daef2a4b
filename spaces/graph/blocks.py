"""Which blocks may be dropped: submodules whose output reaches their input by a path around what they calculate.

Start at `find_blocks`. What a module is called with is known from a run; `residuals.py` says what the graph tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.fx import Node

from .network import Network, operator_name
from .residuals import Called
from .standin import Call, Gives, stand_in


@dataclass(frozen=True)
class Block:
    """A removable submodule.

    Attributes:
        name: the module's.
        nodes: what it calls.
        entry: the value that is passed on where it is dropped.
        exit: the value that it gives.
        gives: what takes its place gives, where the entry is not all that it takes, or the exit not all that it gives.
    """

    name: str
    nodes: frozenset[Node]
    entry: Node
    exit: Node
    gives: Gives | None = None


@dataclass(frozen=True)
class Calls:
    """How modules are called.

    Attributes:
        of: a call of each module, as far as they could be followed.
        same: for each tensor of the graph, the first node that stands for it: some operators give what they take.
        several: modules that are called more than once.
    """

    of: Mapping[str, Call]
    same: Mapping[Node, Node]
    several: Collection[str] = ()


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


def find_blocks(
    network: Network,
    model: nn.Module,
    calls: Callable[[Collection[str]], Calls],
    plain: Sequence[str] = (),
) -> tuple[list[Block], dict[str, str]]:
    """The removable blocks in the order of the network, none within another; and why others are none.

    Of blocks within blocks, those count that leave nothing of the outer one's sums, or that are many of a kind: layers
    rather than the stack that they are in, a layer rather than one of its parts.

    Args:
        network: the captured graph.
        model: the network; classes and parameters of its modules are read.
        calls: says how modules are called.
        plain: names of blocks that may go too though no path leads around them.

    Returns:
        The blocks, and `{module: reason}` of modules that look like a residual block, or are several of a kind in a
        list, and may not be dropped.

    Raises:
        ValueError: a plain block does not give what it takes.
    """
    modules = _called(network, model)
    known = calls([name for name, one in modules.items() if one.streams or name in plain])
    found = {name: _block(one, known, name in plain) for name, one in modules.items()}
    blocks = {name: block for name, block in found.items() if isinstance(block, Block)}
    for name in plain:
        if name not in blocks:
            why = f": {found[name]}" if name in found else ""
            raise ValueError(
                f"plain_blocks names {name!r}, which cannot be replaced by the identity{why}; name blocks that are "
                "called once, with something of the shape that they give"
            )
    stacks = _stacks(modules)
    chosen = _chosen(blocks, modules, stacks)
    held = {above for name in modules for above in _above(name)[:-1]} - modules.keys()
    reasons = dict.fromkeys(sorted(held), "the forward calls what is in it, not the block itself")
    reasons |= {name: why for name, why in found.items() if isinstance(why, str)}
    return [block for name, block in blocks.items() if name in chosen], _told(reasons, chosen, stacks, modules, model)


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


def _called(network: Network, model: nn.Module) -> dict[str, Called]:
    """The modules with parameters that the graph calls, in the order of their first operator, outer ones first."""
    inside: dict[str, list[Node]] = {}
    places = {node: place for place, node in enumerate(network.graph.nodes)}
    for node in network.graph.nodes:
        if node.op == "call_function":
            for path in dict.fromkeys(network.calls[node]):
                if path:
                    inside.setdefault(path, []).append(node)
    weighted = {name.rpartition(".")[0] for name in network.sources.values()}
    held = {path for name in weighted for path in _above(name)}
    modules = dict(model.named_modules(remove_duplicate=False))
    return {
        path: Called(network, path, tuple(nodes), places)
        for path, nodes in inside.items()
        if path in held and path in modules
    }


def _above(name: str) -> list[str]:
    """A module's name and those of the modules that it is in."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _block(module: Called, calls: Calls, plain: bool) -> Block | str:
    """A module as a block that may be dropped, or why it is none."""
    network = module.network
    if module.name in network.repeated or module.name in calls.several:
        return "it is called several times"
    tensors = network.shapes[-1]
    if any(node not in tensors for node in module.exits):
        return "numbers that it makes are used after it"
    if len(module.exits) != 1:
        return "several tensors that it makes are used after it" if module.exits else "nothing uses what it gives"
    end = module.exits[0]
    fits = [
        entry
        for entry in module.entries
        if entry.op != "get_attr"
        and all(shapes[entry] == shapes[end] for shapes in network.shapes)
        and network.dtypes.get(entry) == network.dtypes.get(end)
    ]
    if not fits:
        return "it gives another shape or type than it takes"
    streams = [entry for entry in fits if plain or (entry, end) in module.streams]
    if not streams:
        return f"no sum leads around what it calculates: its output comes from {operator_name(module.parting())}"
    call = calls.of.get(module.name)
    if call is None:
        if len(module.entries) > 1:
            return "how it is called could not be followed"
        return Block(module.name, module.members, streams[0], end)
    given = [value for _, value in call.given if isinstance(value, Node)]
    streams.sort(key=lambda entry: given.index(calls.same[entry]) if calls.same.get(entry) in given else len(given))
    entry = streams[0]
    before = module.made_before(entry)
    if before is not None and not plain:
        maker = next(iter(reversed(network.calls.get(before, ()))), "")
        return f"a part of what it adds is made before it{f', by {maker}' if maker else ''}"
    made = {calls.same[node] for node in module.nodes if node in calls.same}
    gives = stand_in(call, calls.same.get(entry, entry), calls.same.get(end, end), made)
    return gives if isinstance(gives, str) else Block(module.name, module.members, entry, end, gives)


def _stacks(modules: Mapping[str, Called]) -> set[str]:
    """Modules that hold several blocks of a kind, which go one by one, if at all."""
    residual = [name for name, one in modules.items() if one.streams]
    found = set[str]()
    for name in modules:
        kinds = [_kind(other) for other in residual if other.startswith(f"{name}.")]
        if len(set(kinds)) < len(kinds):
            found.add(name)
    return found


def _chosen(blocks: Mapping[str, Block], modules: Mapping[str, Called], stacks: Collection[str]) -> set[str]:
    """The names of blocks that may be dropped such that none is within another."""
    chosen = set[str]()
    for name in sorted(blocks.keys() - stacks, key=lambda name: -name.count(".")):
        block = blocks[name]
        within = [inner for inner in chosen if inner.startswith(f"{name}.")]
        jumps = {blocks[inner].exit: blocks[inner].entry for inner in within}
        if not within or not modules[name].leads_around(block.entry, block.exit, jumps):
            chosen = (chosen - set(within)) | {name}
    return chosen


def _told(
    reasons: Mapping[str, str],
    chosen: Collection[str],
    stacks: Collection[str],
    modules: Mapping[str, Called],
    model: nn.Module,
) -> dict[str, str]:
    """Of the modules that are no blocks, those of which a reader would expect it, outermost first."""
    told = dict[str, str]()
    kinds = Counter((_kind(name), type(model.get_submodule(name))) for name in {*modules, *reasons})
    for name, reason in sorted(reasons.items(), key=lambda item: (item[0] not in modules, item[0].count("."))):
        inside = any(above in chosen or above in told for above in _above(name))
        if inside or name in stacks or any(one.startswith(f"{name}.") for one in (*chosen, *told)):
            continue
        module = model.get_submodule(name)
        listed = name.rpartition(".")[2].isdigit() and kinds[_kind(name), type(module)] > 1
        if (name in modules and modules[name].streams) or (
            listed and any(any(True for _ in part.parameters()) for part in module.children())
        ):
            told[name] = reason
    return {name: told[name] for name in (*modules, *reasons) if name in told}


def _kind(name: str) -> str:
    """A name without the numbers of items."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
