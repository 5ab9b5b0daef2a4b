"""The space: what may be chosen, and the facts of the traced network behind it. Start at `Space.trace`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from .candidate import Axis, Candidate, CostTable, Encoded, check_limits, check_within, mean_side, repair
from .costs.breakdown import breakdown
from .cutting.surgery import Scores, check_scores, l2_scores
from .describe import describe
from .examples import ByName, completed, fitted, made, nested, of_graph
from .graph.blocks import Stage, places, reordered
from .graph.network import Examples, Side, as_call, flat_examples
from .shown import space_html
from .tracing.options import arguments as arguments_of
from .tracing.options import check_module, checked, identity
from .tracing.parts import Key, Rule

if TYPE_CHECKING:  # a study that is opened need not load what traces
    from .channels.layout import Group, Layout, Slots
    from .costs.model import CostModel
    from .cutting.writer import GraphWriter
    from .tracing.layers import Layer

Candidates = Sequence[Candidate] | Encoded


@dataclass(frozen=True, eq=False)
class Space:
    """Widths, depths and resolutions that may be chosen together, in that order of axes.

    Attributes:
        axes: one for each group, then one for each stage, then `resolution` where several sides were asked for.
        groups: channels that are cut together.
        stages: blocks that may be dropped.
        resolutions: input sides, ascending; the `resolution` axis is an index into them. Empty without that axis.
        frozen: `{module: reason}` of what is left whole; whole_blocks: of what looks like a block to drop and is none.
        ruled: what each of the rules did.
        side_multiple: sides smaller by steps of it, down to half, are taken too, as a few tries say; 0 where none are.
        default_scores: L2 norm of everything that leaves with each unit.
        layers: convolutions and linear layers, in the order of their first call.
        shapes: of every parameter and buffer of the full network.
        settings: how the space was traced, as JSON.
    """

    axes: tuple[Axis, ...]
    groups: tuple[Group, ...]
    stages: tuple[Stage, ...]
    resolutions: tuple[Side, ...]
    frozen: dict[str, str]
    default_scores: Scores
    settings: dict[str, Any]
    layout: Layout = field(repr=False)
    cost_model: CostModel = field(repr=False)
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    layers: tuple[Layer, ...] = field(default=(), repr=False)
    traced_side: Side = ()
    side_multiple: int = 0
    writer: GraphWriter | None = field(default=None, repr=False)
    ruled: dict[str, str] = field(default_factory=dict)
    whole_blocks: dict[str, str] = field(default_factory=dict)

    @classmethod
    def trace(
        cls,
        model: nn.Module,
        example_inputs: Examples,
        *,
        resolutions: Iterable[int | Sequence[int]] = (),
        divisor: int = 8,
        ignore: Key | Iterable[Key] = (),
        rules: Mapping[Any, Rule] | None = None,
        plain_blocks: Iterable[str] = (),
        as_graph: bool = False,
        example_kwargs: Mapping[str, Any] | None = None,
        prove: bool | Mapping[str, Any] = True,
    ) -> Space:
        """Follow a network's channels once; nothing of `model` is changed.

        Args:
            model: any module that `torch.export` takes.
            example_inputs: a tensor, or a tuple or dict of tensors, as the forward takes them; axis 0 is the batch.
                Plain values among them (True, None, "mean") stay as they are in every call.
            resolutions: input sides to search: integers for square inputs, or tuples with one number an axis.
            divisor: widths are multiples of it (and of the unit) where a group allows.
            ignore: modules to leave whole: names, patterns of them, or classes.
            rules: `{name, pattern or class: rule}`, a later one over an earlier one: `"ignore"`, or some of `least`, a
                share of the full width, `divisor` in place of that of all, `depth`, whether blocks may be dropped, and
                `attention`, whether it loses `"heads"`, or features of all its heads, `"head_size"`.
            plain_blocks: names of blocks that may be dropped though no identity path leads around them; what they take
                and what they give is then cut together.
            as_graph: let channel numbers that the forward writes as constants follow; the networks built are then
                `torch.fx.GraphModule`s, not of the user's class.
            example_kwargs: what the forward takes by name beside `example_inputs`: tensors and plain values.
            prove: whether a few candidates are built and compared, or `settings["proof"]` of an earlier trace.

        Raises:
            ValueError: the network cannot be exported, cannot take a resolution, or an argument is off.
            TypeError: example inputs or resolutions of another type.
        """
        from .tracing.trace import traced

        check_module(model)
        examples = completed(model, example_inputs, example_kwargs)
        rules = {} if rules is None else rules
        others: dict[str, Any] = {"plain_blocks": plain_blocks, "as_graph": as_graph, "prove": prove}
        options = checked(
            model, examples, resolutions=resolutions, divisor=divisor, ignore=ignore, rules=rules, **others
        )
        found = traced(model, examples, options)
        sides = options.resolutions
        return cls(
            axes=found.axes(sides),
            groups=found.layout.groups,
            stages=found.stages,
            resolutions=sides if len(sides) > 1 else (),
            frozen=found.frozen,
            whole_blocks=found.whole_blocks,
            ruled=found.ruled,
            default_scores=l2_scores(found.layout, model),
            settings=options.to_json() | ({"proof": found.proof} if found.proof else {}),
            layout=found.layout,
            cost_model=found.costs,
            shapes=found.shapes,
            layers=found.layers,
            traced_side=options.sides[-1],
            side_multiple=found.side_multiple,
            writer=found.writer,
        )

    @classmethod
    def from_settings(cls, model: nn.Module, settings: Mapping[str, Any]) -> Space:
        """Trace again with the settings of another space of the same network."""
        examples, arguments = arguments_of(model, settings)
        space = cls.trace(model, examples, **arguments)
        orders = settings.get("block_order")
        return space.with_block_order(places(space.stages, orders)) if orders else space

    def with_block_order(self, scores: Mapping[str, Sequence[float] | Tensor]) -> Space:
        """A new space in which the block with the lowest score goes first; the last of equal ones.

        Args:
            scores: `{stage: (blocks,) scores in the order of the network}`; stages not named keep their order.
        """
        stages = reordered(self.stages, scores)
        orders = {stage.name: list(stage.order) for stage in stages if stage.name in scores}
        gates = tuple(gate.under(stages) for gate in self.cost_model.gates)
        return replace(
            self,
            stages=stages,
            settings={**self.settings, "block_order": {**self.settings["block_order"], **orders}},
            cost_model=replace(self.cost_model, gates=gates),
        )

    # --- facts -------------------------------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Number of units of all groups, and unit 0, which always stays."""
        return self.layout.units

    @property
    def slots(self) -> Slots:
        """Which unit each index belongs to: `{parameter or buffer: {axis: (size of the axis,) unit numbers}}`.

        Only axes along which something may go are listed.
        """
        return self.layout.slots

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Operators that may multiply and are in no sum: transforms, and those that nothing counts."""
        return tuple(sorted({name for names in self.cost_model.uncounted.values() for name in names}))

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Operators without a cost formula that candidates change; there are no costs where there is any."""
        return self.cost_model.unknown

    @property
    def as_graph(self) -> bool:
        """Whether the networks built are `torch.fx.GraphModule`s."""
        return self.writer is not None

    @property
    def proof(self) -> str:
        """What the comparison at the end of the trace showed, of how much of the network, or why there was none."""
        return str(self.settings.get("proof", {}).get("said", "not proven: it was traced without"))

    @cached_property
    def full_costs(self) -> dict[str, float]:
        """Costs of the full network, by name, in the order of the columns of `costs`.

        Raises:
            NotImplementedError: there is an operator of `unpriced`.
        """
        return {name: float(column[0]) for name, column in self.cost_table([self.full]).items()}

    @cached_property
    def smallest_costs(self) -> dict[str, float]:
        """As `full_costs`, of the smallest network."""
        return {name: float(column[0]) for name, column in self.cost_table([self.smallest]).items()}

    # --- candidates ---------------------------------------------------------------------------------------------------

    @cached_property
    def full(self) -> Candidate:
        """Nothing removed."""
        return Candidate([axis.choices[-1] for axis in self.axes])

    @cached_property
    def smallest(self) -> Candidate:
        """The least choice on every axis."""
        return self.canonical([axis.choices[0] for axis in self.axes])

    def check(self, candidate: Sequence[int]) -> Candidate:
        """The candidate, if it is a legal choice on every axis.

        Raises:
            ValueError: another number of axes, or a value that is no choice; the nearest one is named.
        """
        if len(candidate) != len(self.axes):
            raise ValueError(f"candidate has {len(candidate)} values; this space has {len(self.axes)} axes")
        for axis, value in zip(self.axes, candidate, strict=True):
            if value not in axis.choices:  # asked here: every proposal comes through several times
                axis.check(value)
        return candidate if isinstance(candidate, Candidate) else Candidate(candidate)

    def canonical(self, candidate: Sequence[int]) -> Candidate:
        """The same network's one name: widths that are in removed blocks only are full."""
        found = self.check(candidate)
        gone = tuple([f"{name}." for name in self.removed(found)]) if self.stages else ()
        if not gone:
            return found
        values = list(found)
        for number, tensors in enumerate(self.layout.tensors_of_groups):
            if all([name.startswith(gone) for name in tensors]):
                values[number] = self.axes[number].choices[-1]
        return Candidate(values)

    def removed(self, candidate: Sequence[int]) -> tuple[str, ...]:
        """Modules that become the identity."""
        depths = candidate[len(self.groups) : len(self.groups) + len(self.stages)]
        return tuple(name for stage, kept in zip(self.stages, depths, strict=True) for name in stage.removed(kept))

    def side(self, candidate: Sequence[int]) -> Side:
        """Spatial side of the input."""
        return self.resolutions[candidate[-1]] if self.resolutions else self.traced_side

    def example(self, candidate: Sequence[int], batch: int = 1) -> tuple[Tensor, ...]:
        """Example inputs at the candidate's side: seeded noise, or zeros where the network takes integers."""
        return tuple(made(one, self.side(candidate), batch) for one in self.settings["inputs"])

    def inputs(self, network: nn.Module, candidate: Sequence[int], *, batch: int = 1) -> Examples:
        """As `example`, as the network's forward takes them: a tuple, or a dict where it takes them by name.

        Args:
            network: of the space; the inputs are on its device, floating ones in its dtype.
            candidate: whose side they have.
            batch: number of examples.
        """
        found = nested(fitted(self.example(candidate, batch), network), self.settings)
        return of_graph(found) if self.as_graph and isinstance(network, GraphModule) else found

    def call(
        self, network: nn.Module, candidate: Sequence[int], *, batch: int = 1
    ) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The network as one that takes its inputs in order, and such inputs; arguments as of `inputs`."""
        inputs, names = self.inputs(network, candidate, batch=batch), self.settings["names"] or ()
        fixed = {name: value for name, value in as_call(inputs)[1].items() if name not in names}
        return (ByName(network, names, fixed) if names else network), tuple(flat_examples(inputs))

    def uniform(self, width: float = 1.0, depth: float = 1.0, resolution: float = 1.0) -> Candidate:
        """The candidate nearest to these ratios of the full network on every axis."""
        for name, ratio in (("width", width), ("depth", depth), ("resolution", resolution)):
            if not 0 < ratio <= 1 and not (name == "depth" and ratio == 0):
                raise ValueError(f"{name}={ratio!r}: expected a ratio in (0, 1]")
        values = []
        for axis in self.axes:
            if axis.kind == "width":
                values.append(axis.nearest(width * axis.full))
            elif axis.kind == "depth":
                values.append(axis.nearest(depth * axis.full))
            else:
                want, sides = resolution * mean_side(self.resolutions[-1]), [*map(mean_side, self.resolutions)]
                values.append(min(axis.choices, key=lambda i: (abs(sides[i] - want), -i)))
        return self.canonical(values)

    def sample(self, n: int, seed: int = 0) -> list[Candidate]:
        """`n` legal candidates, each axis drawn evenly; different ones as far as the space has them."""
        random = np.random.default_rng(seed)
        found, drawn = dict[Candidate, None](), list[Candidate]()
        for _ in range(20):
            columns = [random.choice(axis.choices, size=n) for axis in self.axes]
            drawn += [self.canonical(row) for row in (np.stack(columns, axis=1).tolist() if columns else [[]] * n)]
            found = dict.fromkeys(drawn)
            if len(found) >= n:
                break
        return [*found, *drawn][:n]

    def encode(self, candidates: Sequence[Candidate]) -> Encoded:
        """`(n, d)` integers in axis order."""
        return np.array(candidates, np.int64).reshape(len(candidates), len(self.axes))

    def decode(self, encoded: Encoded) -> list[Candidate]:
        """The candidates of an `(n, d)` array."""
        return [self.check(row) for row in np.asarray(encoded).tolist()]

    def costs(self, candidates: Candidates) -> pd.DataFrame:
        """Exact costs, a row each: macs, params, param_bytes, activation_bytes, peak_bytes, for one example.

        Args:
            candidates: a list of candidates, or an `(n, d)` array of them; an array is trusted to be legal.
            `attrs["uncounted"]` of the table names operators that are in no sum.
        """
        table = pd.DataFrame(self.cost_table(candidates))
        table.attrs["uncounted"] = list(self.uncounted)
        return table

    def cost_table(self, candidates: Candidates) -> dict[str, Encoded]:
        """As `costs`, as arrays `(n,)` by name."""
        if not isinstance(candidates, np.ndarray):
            candidates = self.encode([self.check(candidate) for candidate in candidates])
        encoded = np.asarray(candidates, np.int64)
        if encoded.ndim != 2 or encoded.shape[1] != len(self.axes):
            raise ValueError(f"encoded candidates are {encoded.shape}; expected (n, {len(self.axes)})")
        return self.cost_model.table(encoded)

    def breakdown(self, candidate: Sequence[int]) -> pd.DataFrame:
        """Where a candidate's costs are: a row a module in the order of the forward; columns sum to `costs`.

        `peak_bytes` of a module are its parameters and what it gave that is alive when most bytes are. The module `""`
        is the network itself, `"(input)"` what it is given. Where operators are in no sum, a column `uncounted` names
        them.

        Raises:
            NotImplementedError: there is an operator of `unpriced`.
        """
        candidate = self.check(candidate)
        self.cost_table([candidate])
        encoded, side = self.encode([candidate]), candidate[-1] if self.resolutions else 0
        model = self.cost_model
        return breakdown(model.parts, model.modules, model.monomials(encoded)[:, 0], side, model.uncounted)

    def repair(
        self, candidate: Sequence[int], limits: Mapping[str, float], costs: CostTable | None = None
    ) -> Candidate:
        """The candidate, or the nearest smaller one within the limits; see `spaces.repair`."""
        return repair(self, candidate, limits, costs)

    def check_limits(self, limits: Mapping[str, float]) -> None:
        """Raise a ValueError with the reachable range where even the smallest network is over a limit."""
        check_limits(self, limits)

    def check_within(self, candidate: Sequence[int], limits: Mapping[str, float]) -> None:
        """Raise a ValueError that names the cost where the candidate is over a limit that arithmetic knows."""
        check_within(self, candidate, limits)

    def ranking(self, scores: Scores | None) -> list[Encoded]:
        """For each group, its units from best to worst."""
        if scores is not None:
            check_scores(self, scores)
        used = self.default_scores if scores is None else scores
        return [
            torch.argsort(used[group.name].detach().double().cpu(), descending=True, stable=True).numpy()
            for group in self.groups
        ]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of all that decides what a candidate means and costs."""
        facts = [
            [[axis.name, axis.choices] for axis in self.axes],
            [[stage.name, stage.blocks, stage.order] for stage in self.stages],
            identity(self.settings),
            self.unpriced or self.costs([self.full, self.smallest]).to_dict("list"),
        ]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name in sorted(self.slots):
            for axis, ids in sorted(self.slots[name].items()):
                digest.update(f"{name}:{axis}".encode() + ids.tobytes())
        return digest.hexdigest()

    def __str__(self) -> str:
        """Groups, stages, resolutions, what is frozen and why, and the range of every cost."""
        return describe(self)

    def _repr_html_(self) -> str:
        return space_html(self)
