"""What a network's time is made of, by arithmetic: a few sums over its layers.

A device takes channels in steps: a layer with 17 outputs costs what one with 32 does where the step is 16. So the
multiply-adds of a layer are counted with its channels rounded up to a step `s`, which is not known beforehand.

Symbols: `n` candidates, `d` axes, `g` groups, `l` layers, `t` terms; `p` positions, `k` elements of a kernel,
`i` and `o` input and output channels of a layer (inputs of one output, where it is grouped), `[o]` rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...spaces import Encoded, Layer, Space

Array = npt.NDArray[np.float64]
STEPS = (1, 4, 8, 16, 32, 64)
KINDS = ("spatial", "pointwise", "depthwise", "linear")
SMALL = 20480  # elements; see `Terms.table`
MAPPED = 2**25 // 4  # float32 numbers from which glibc's malloc gets fresh pages for every call


@dataclass(frozen=True, eq=False)
class Terms:
    """The facts of a space's layers as arrays; `table` evaluates the sums.

    Attributes:
        space: the traced space.
        outputs: `(l, 1 + g)` output channels as a constant and a factor for each unit kept; inputs: the same.
        positions: `(sides, l)` how often the whole weight meets an input.
        given: `(sides, l)` elements of one input channel, its last axis left out.
        kernel: `(l,)` elements of a kernel.
        kind: `(l,)` index in `KINDS`.
        filled: `(l,)` whether inputs are rounded up: not those of grouped convolutions, nor the images' own channels.
        stage: `(l,)` stage whose block holds the layer, -1 where it always stays.
        least: `(l,)` blocks of that stage that must stay for the layer to be there.
    """

    space: Space
    outputs: Array
    inputs: Array
    positions: Array
    given: Array
    kernel: Array
    kind: npt.NDArray[np.int64]
    filled: npt.NDArray[np.bool_]
    stage: npt.NDArray[np.int64]
    least: npt.NDArray[np.int64]

    @classmethod
    def of(cls, space: Space) -> Terms:
        """The facts of a space."""
        layers, sides = space.layers, max(len(space.resolutions), 1)
        homes = [_home(space, layer) for layer in layers]
        inputs = _widths(space, [layer.in_axis for layer in layers])
        grouped = np.array([layer.groups > 1 for layer in layers], bool)
        return cls(
            space=space,
            outputs=_widths(space, [layer.out_axis for layer in layers]),
            inputs=inputs,
            filled=inputs[:, 1:].any(1) & ~grouped,
            positions=np.array([layer.positions for layer in layers], float).reshape(len(layers), sides).T,
            given=np.array(
                [[np.prod(side[:2]) if len(side) > 1 else 1 for side in layer.given] for layer in layers], float
            )
            .reshape(len(layers), sides)
            .T,
            kernel=np.array([np.prod(space.shapes[layer.weight][2:]) for layer in layers], float),
            kind=np.array([KINDS.index(_kind(space, layer)) for layer in layers], np.int64),
            stage=np.array([stage for stage, _ in homes], np.int64),
            least=np.array([least for _, least in homes], np.int64),
        )

    def table(self, encoded: Encoded, step: int, native: bool) -> Array:
        """`(n, t)` sums over the layers that stay, each of which only grows with any choice unless `native`.

        They are: 1; bytes of all outputs; elements of all weights; and for each kind of layer their number and their
        multiply-adds `p k [i] [o]`.

        Args:
            encoded: `(n, d)` candidates.
            step: channels are rounded up to it.
            native: whether convolutions of small inputs are counted apart, by their number, `p k i o` and the elements
                that they gather, `p k i`, those of more than 32 MiB again. PyTorch 2.13 gives a convolution on the CPU
                to oneDNN only where batch x channels x first two sides of its input are more than 20,480, and else
                gathers all windows of the input in one matrix and multiplies. In 3D that takes up to ten times as long,
                so a wider network may be faster.
        """
        widths, stages = len(self.space.groups), len(self.space.stages)
        side = encoded[:, -1] if self.space.resolutions else np.zeros(len(encoded), np.int64)
        units = np.ones((len(encoded), 1 + widths))
        units[:, 1:] = encoded[:, :widths] / np.array([group.unit for group in self.space.groups])
        o, i = units @ self.outputs.T, units @ self.inputs.T
        kept = np.hstack([encoded[:, widths : widths + stages], np.zeros((len(encoded), 1), np.int64)])
        alive = (kept[:, self.stage] >= self.least).astype(float)
        pk = alive * self.positions[side] * self.kernel
        weights = alive * self.kernel * o * i
        here = np.zeros(alive.shape, bool)
        if native:
            here = (self.kind < KINDS.index("depthwise")) & (i * self.given[side] <= SMALL)
        work, there = pk * _up(o, step) * np.where(self.filled, _up(i, step), i) * ~here, alive * ~here
        columns = [np.ones(len(encoded)), self.space.cost_table(encoded)["activation_bytes"], weights.sum(1)]
        for number in range(len(KINDS)):
            own = self.kind == number
            columns += [there[:, own].sum(1), work[:, own].sum(1)]
        if native:
            gathered = pk * here * i
            columns += [(alive * here).sum(1), (gathered * o).sum(1), gathered.sum(1)]
            columns += [(gathered * (gathered > MAPPED)).sum(1)]
        return np.stack(columns, axis=1).astype(np.float64)


def _up(channels: Array, step: int) -> Array:
    """Channels rounded up to the step."""
    rounded: Array = np.ceil(channels / step - 1e-9) * step
    return rounded


def _kind(space: Space, layer: Layer) -> str:
    if layer.kind == "linear":
        return "linear"
    if layer.groups > 1:
        return "depthwise"
    return "pointwise" if np.prod(space.shapes[layer.weight][2:]) == 1 else "spatial"


def _widths(space: Space, axes: list[int]) -> Array:
    """`(l, 1 + g)` channels of each layer's weight along an axis."""
    found = np.zeros((len(axes), 1 + len(space.groups)))
    firsts = [0, *(group.first for group in space.groups)]  # a group's units appear equally often
    for number, (layer, axis) in enumerate(zip(space.layers, axes, strict=True)):
        ids = space.slots.get(layer.weight, {}).get(axis)
        if ids is None:
            found[number, 0] = space.shapes[layer.weight][axis]
        else:
            found[number] = np.bincount(ids, minlength=space.units)[firsts]
    return found


def _home(space: Space, layer: Layer) -> tuple[int, int]:
    """The stage that may drop a layer, and how many blocks of it must stay; (-1, 0) where none may."""
    for number, stage in enumerate(space.stages):
        for place, block in enumerate(stage.order):
            if layer.name == block or layer.name.startswith(f"{block}."):
                return number, len(stage.blocks) - place
    return -1, 0
