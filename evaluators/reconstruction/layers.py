"""The small network's side: its layers solved in the order of its forward, each on what those before it now give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from ...spaces import Layer, device_of, named_tensors
from ...spaces.networks.patches import Call, as_matrix, as_weight
from ...spaces.networks.watching import Watching
from .clock import Clock
from .pictures import Pictures
from .solving import Sums, best
from .staging import Enough, Staged
from .targets import Key, Seen, Targets, rows_of

_TOGETHER = 1024  # rows whose products are made at once: those of small batches would be added to large sums often


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What came of a layer.

    Attributes:
        before: squared error of its outputs beside the full network's, over their spread, on pictures not solved on.
        after: the same of the new weights.
        ridge: share of the mean square of its inputs; infinite where only the bias changed.
        rows: places it was solved on.
        unknowns: inputs of one output.
    """

    before: float
    after: float
    ridge: float
    rows: int
    unknowns: int


@dataclass
class Progress:
    """Layers by name: those that were solved, and why others were left."""

    solved: dict[str, Solved] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


class Solving:
    """The layers of one small network, solved in place."""

    def __init__(
        self,
        network: nn.Module,
        pictures: Pictures,
        targets: Targets,
        layers: Sequence[Layer],
        kept: Mapping[str, Mapping[int, Tensor]],
        *,
        shares: Sequence[float],
        memory: int,
        clock: Clock | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            network: the small network, in eval mode.
            pictures: those of the targets.
            targets: the full network's side.
            layers: of the space.
            kept: channel map of the network.
            shares: ridges to choose from.
            memory: bytes that the products of a layer's inputs may take.
            clock: counts "gather" and "solve".
        """
        self._network, self._pictures, self._targets, self._kept = network, pictures, targets, kept
        self._shares, self._memory, self._clock = shares, memory, clock or Clock()
        self._tensors = named_tensors(network)
        self._layers = {layer.weight: layer for layer in layers if layer.weight in self._tensors}
        self._names = {id(self._tensors[name]): name for name in self._layers}
        self._done = set[str]()
        self.progress = Progress()

    def run(self) -> Progress:
        """Solve every layer once, at its first call; forwards of all batches stand there."""
        waiting, at = list[Staged](), 0
        counts = dict.fromkeys(self._layers, 0)
        try:
            waiting.append(self._started(0))
            while (stop := waiting[0].advance()) is not None:
                name = stop[0]
                key, at = (name, counts[name]), at + 1
                counts[name] += 1
                seen = self._targets.calls.get(key)
                many = 1 if seen is None else seen.batches
                for one in waiting[many:]:
                    one.close()
                del waiting[many:]
                for one in waiting[1:]:
                    self._advanced(one, name)
                while len(waiting) < many:
                    waiting.append(self._started(len(waiting)))
                    for _ in range(at - 1):
                        waiting[-1].advance()
                    self._advanced(waiting[-1], name)
                if name not in self._done:
                    self._done.add(name)
                    self._layer(key, seen, waiting)
        finally:
            for one in waiting:
                one.close()
        for name, layer in self._layers.items():
            if name not in self._done:
                self.progress.left[layer.name] = "no convolution or linear layer is called with its weight"
        return self.progress

    def _started(self, number: int) -> Staged:
        run = partial(self._pictures.forward, self._network, self._pictures.batches[number])
        return Staged(run, self._names, device_of(self._network))

    def _advanced(self, one: Staged, name: str) -> None:
        stop = one.advance()
        if stop is None or stop[0] != name:
            raise ValueError(
                "the network calls other layers for one batch of pictures than for another; its layers can't be solved"
            )

    def _layer(self, key: Key, seen: Seen | None, waiting: Sequence[Staged]) -> None:
        """Solve a layer at which forwards of some batches stand."""
        layer, stops = self._layers[key[0]], [one.stop for one in waiting]
        calls = [stop[1] for stop in stops if stop is not None]
        reason = self._refusal(layer, calls[0], seen)
        if not reason:
            assert seen is not None, "a layer that the full network does not call is refused"
            one = _OneLayer(layer, calls[0], self._targets, self._chosen(layer, calls[0]), self._shift(layer, calls[0]))
            if self._targets.counts[key[0]] == 1:
                with self._clock("gather"):
                    for number, call in enumerate(calls):
                        one.add(key, number, call, held_out=self._pictures.held_out(number))
            else:
                self._all_calls(one, key[0], seen.batches)
            with self._clock("gather"):
                one.sum_up()
            with self._clock("solve"):
                reason = self._changed(one)
        if reason:
            self.progress.left[layer.name] = reason

    def _refusal(self, layer: Layer, call: Call, seen: Seen | None) -> str:
        """Why a layer can't be solved; nothing where it can."""
        if seen is None:
            return "the full network does not call it"
        if seen.given != tuple(call.input.shape[2:]):
            return "its input has another side than in the full network"
        if len(self._chosen(layer, call)) != _outputs(call):
            return "which of its outputs stayed is not known"
        size = 8 * call.groups * call.unknowns**2
        if 2 * size > self._memory:
            return f"the products of its {call.unknowns} inputs take {2 * size:,} bytes; raise memory"
        return ""

    def _chosen(self, layer: Layer, call: Call) -> Tensor:
        """Which of the full layer's outputs the small one gives."""
        full, kept = len(layer.makes), self._kept.get(layer.weight, {})
        own = kept.get(layer.out_axis, torch.arange(full))
        if layer.kind != "conv_transpose" or layer.groups == 1:
            return own
        # Its weight is (in, out of a group): what stays is the same in every group, and a group goes with its inputs.
        inputs = len(layer.reads)
        groups = torch.zeros(layer.groups, dtype=torch.bool)
        groups[kept.get(0, torch.arange(inputs)) // (inputs // layer.groups)] = True
        return (groups.nonzero() * full + own).flatten()

    def _shift(self, layer: Layer, call: Call) -> tuple[Tensor, float] | None:
        """What takes the change of the bias, and its sign: the bias, or the mean of the batch norm; None: nothing."""
        found, sign = call.bias, 1.0
        if found is None and layer.norm is not None and layer.norm.mean is not None and layer.calls == 1:
            found, sign = self._tensors.get(layer.norm.mean), -1.0  # a norm around mean - b is one of y + b
        own = found is not None and any(found is tensor for tensor in self._tensors.values())
        return (found, sign) if own and found is not None and self._users(found) == 1 else None

    def _users(self, tensor: Tensor) -> int:
        """How many layers and norms have it."""
        biases = [layer.bias for layer in self._layers.values()]
        means = [layer.norm.mean for layer in self._layers.values() if layer.norm is not None]
        return sum(name is not None and self._tensors.get(name) is tensor for name in (*biases, *means))

    def _all_calls(self, one: _OneLayer, name: str, batches: int) -> None:
        """Add the rows of all calls of a layer, by forwards of their own up to the last of them."""
        for number in range(batches):
            at = 0

            def before(found: str, call: Call, number: int = number) -> None:
                nonlocal at
                if found != name:
                    return
                if number < self._targets.calls[name, at].batches:
                    with self._clock("gather"):
                        one.add((name, at), number, call, held_out=self._pictures.held_out(number))
                at += 1
                if at == self._targets.counts[name]:
                    raise Enough

            try:
                with Watching(self._names, before=before):
                    self._pictures.forward(self._network, self._pictures.batches[number])
            except Enough:
                continue
            raise ValueError(f"{name} is called less often in the small network than in the full one")

    def _changed(self, one: _OneLayer) -> str:
        """Give a layer the weights that are best on the pictures that were not solved on; why it keeps its own."""
        train, judge = one.train, one.judge
        if not math.isfinite(train.ee + judge.ee):
            return "its inputs or outputs are not finite"
        tiny = (100 * torch.finfo(one.call.weight.dtype).eps) ** 2
        if train.ee + judge.ee <= tiny * (train.yy + judge.yy):
            return "it gives what the full network gives"
        found = best(train, judge, self._shares, shifts=one.shift is not None)
        if found is None:
            return "no other weights are better on pictures that were not solved on"
        change, shift, share = found
        weight = one.call.weight
        weight.copy_(as_weight(one.call, as_matrix(one.call, weight).double() + change))
        if one.shift is not None:
            tensor, sign = one.shift
            tensor.add_((sign * shift.flatten()).to(tensor))
        spread = judge.spread or 1.0
        self.progress.solved[one.layer.name] = Solved(
            before=judge.ee / spread,
            after=judge.error(change, shift) / spread,
            ridge=share,
            rows=train.rows,
            unknowns=one.call.unknowns,
        )
        return ""


class _OneLayer:
    """A layer while rows are gathered for it."""

    def __init__(
        self, layer: Layer, call: Call, targets: Targets, chosen: Tensor, shift: tuple[Tensor, float] | None
    ) -> None:
        self.layer, self.call, self.shift, self._targets = layer, call, shift, targets
        self._chosen = chosen.to(call.weight.device)
        self._dtype = torch.promote_types(call.weight.dtype, torch.float32)  # half a precision is none for products
        self._weight = as_matrix(call, call.weight).to(self._dtype)
        self._rows: tuple[list[tuple[Tensor, Tensor, Tensor]], ...] = ([], [])  # that were not added yet
        groups, inputs, outputs = self._weight.shape
        self.train, self.judge = (Sums.empty(groups, inputs, outputs, call.weight.device) for _ in range(2))

    def add(self, key: Key, number: int, call: Call, *, held_out: bool) -> None:
        """Add the rows of one call with one batch."""
        seen = self._targets.calls[key]
        z = rows_of(call, seen, key, number).to(self._dtype)
        y = seen.values[number][:, self._chosen].to(self._dtype).reshape(len(z), self.call.groups, -1)
        now = (z.transpose(0, 1) @ self._weight).transpose(0, 1)
        if call.bias is not self.call.bias:
            self.shift = None  # a weight of several biases
        if call.bias is not None:
            now = now + call.bias.to(self._dtype).reshape(self.call.groups, -1)
        rows = self._rows[held_out]
        rows.append((z, y - now, y))
        if sum(len(one) for one, _, _ in rows) >= _TOGETHER:
            self.sum_up()

    def sum_up(self) -> None:
        """Add the rows that wait to the sums."""
        for rows, sums in zip(self._rows, (self.train, self.judge), strict=True):
            if rows:
                sums.add(*(torch.cat(column) for column in zip(*rows, strict=True)))
                rows.clear()


def _outputs(call: Call) -> int:
    return int(call.weight.shape[1] * call.groups if call.transposed else call.weight.shape[0])
