"""Units removed one after another, the weights of their readers solved again after each: what every step costs.

With A = Z^T Z + r I (the ridge r draws towards the weights as they were), weights W that are best for the inputs that
are left, and M the inverse of A over these, removing the inputs b of a unit adds

    tr( W_b^T (M_bb)^-1 W_b )

to what the outputs lack, and the best weights move by -M_:b (M_bb)^-1 W_b: the optimal brain surgeon's step
(Hassibi 1993) for a block of inputs. A group's units are judged by the sum over their readers, each as a share of the
squares of its outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .products import Reader, blocks

RIDGE = 1e-3
"""Of the mean square of a reader's inputs."""
_TRIED = 8  # units that have gone, for a swap


class Elimination:
    """The readers of one group while its units go.

    Attributes:
        left: `(u,)` which units are there.
        damage: what the readers' outputs lack, as shares of their squares, summed.
    """

    def __init__(self, units: int, readers: Sequence[Reader]) -> None:
        """All units are there.

        Args:
            units: of the group.
            readers: at least one.
        """
        self.left = torch.ones(units, dtype=torch.bool)
        self.damage = 0.0
        self._parts = [_Part(reader) for reader in readers]

    def costs(self) -> Tensor:
        """`(u,)` what each unit's removal would add to the damage; infinite for those that have gone."""
        total = torch.zeros(len(self.left), dtype=torch.float64)
        units = self.left.nonzero().flatten()
        for part in self._parts:
            total[units] += part.costs(units)
        return total.masked_fill(~self.left, torch.inf)

    def remove(self, units: Sequence[int]) -> float:
        """The damage after some units, not yet gone, went together."""
        if len(units):
            self.damage += sum(part.remove(torch.tensor(units)) for part in self._parts)
            self.left[list(units)] = False
        return self.damage

    def order(self) -> tuple[list[int], list[float]]:
        """The units from the first to go to the last, each the cheapest of those left, and the damage after each.

        Of more than 128 units some go at once, as many as are a 128th of all, so that large groups take no longer.
        """
        found, after = list[int](), list[float]()
        many = max(1, len(self.left) // 128)
        while bool(self.left.any()):
            costs = self.costs()
            cheapest = costs.argsort(stable=True)[: min(many, int(self.left.sum()))].tolist()
            before, single = self.damage, [float(costs[unit]) for unit in cheapest]
            whole = self.remove(cheapest) - before
            shares = torch.tensor(single).double().cumsum(0) / max(sum(single), 1e-300)
            found += cheapest
            after += (before + whole * shares).tolist()
        return found, after

    def along(self, order: Sequence[int], kept: Sequence[int]) -> list[float]:
        """The damage when so many units are left, the numbers falling, as the units go in an order."""
        found, gone = list[float](), 0
        for number in kept:
            last = len(order) - number
            found.append(self.remove(list(order[gone:last])))
            gone = last
        return found


class _Part:
    """One reader while inputs go."""

    def __init__(self, reader: Reader) -> None:
        products = reader.centred
        self.inputs, self.scale = reader.inputs, 1 / reader.spread(products)
        self.inverse, self.weight = torch.cholesky_inverse(factor(products)), reader.weight.clone()

    def costs(self, units: Tensor) -> Tensor:
        """`(n,)` what the removal of each adds."""
        inputs = self.inputs[units]
        weight = self.weight[inputs]
        own = blocks(self.inverse, inputs, inputs)
        found: Tensor = self.scale * (weight * torch.linalg.solve(own, weight)).sum((1, 2))
        return found

    def remove(self, units: Tensor) -> float:
        """What the removal of all of these adds."""
        gone = self.inputs[units].flatten()
        columns = self.inverse[:, gone]
        own = columns[gone]
        weight = self.weight[gone]
        solved = torch.linalg.solve(own, torch.cat([weight, columns.T], 1))
        added = float((weight * solved[:, : weight.shape[1]]).sum())
        self.weight -= columns @ solved[:, : weight.shape[1]]
        self.inverse -= columns @ solved[:, weight.shape[1] :]
        # What has gone keeps ones on the diagonal, so that the blocks of other units stay what they are.
        self.inverse[gone], self.weight[gone] = 0.0, 0.0
        self.inverse[:, gone] = 0.0
        self.inverse[gone, gone] = 1.0
        return self.scale * added


def factor(products: Tensor) -> Tensor:
    """Cholesky factor of the products with their ridge; of inputs that are always zero too."""
    scale = float(products.diagonal().mean())
    ridge = RIDGE * scale if scale > 0 else 1.0
    found: Tensor = torch.linalg.cholesky(products + ridge * torch.eye(len(products), dtype=products.dtype))
    return found


def swapped(readers: Sequence[Reader], kept: Tensor, most: int) -> tuple[Tensor, int]:
    """`(u,)` which units are kept after swaps with units that have gone, as long as the damage falls, and how many.

    Units that have gone are tried from the one that would help most; the then cheapest goes for it.

    Args:
        readers: of the group, at least one.
        kept: `(u,)` which units are kept.
        most: swaps at most.
    """
    parts = [_Choice(reader) for reader in readers]
    for done in range(most):
        better = _swap(parts, kept)
        if better is None:
            return kept, done
        kept = better
    return kept, most


def _swap(parts: Sequence[_Choice], kept: Tensor) -> Tensor | None:
    """What is kept after the first swap that lowers the damage; None where no swap that is tried does."""
    if not bool(kept.any()) or bool(kept.all()):
        return None
    before = sum(part.fit(kept) for part in parts)
    helps = torch.stack([part.helps() for part in parts]).sum(0).masked_fill(kept, -torch.inf)
    for back in helps.argsort(descending=True, stable=True)[: min(_TRIED, int((~kept).sum()))].tolist():
        other = kept.clone()
        other[back] = True
        after = sum(part.fit(other) for part in parts)
        costs = torch.stack([part.costs() for part in parts]).sum(0).masked_fill(~other, torch.inf)
        gone = int(costs.argmin())
        if after + float(costs[gone]) < before * (1 - 1e-6):
            other[gone] = False
            return other
    return None


class _Choice:
    """One reader with some units kept, solved from nothing."""

    def __init__(self, reader: Reader) -> None:
        self.reader, products = reader, reader.centred
        self.scale, size = 1 / reader.spread(products), len(products)
        self.products = factor(products)
        self.products = self.products @ self.products.T
        self.free = torch.ones(size, dtype=torch.bool)
        self.free[reader.inputs.flatten()] = False  # inputs of other groups always stay

    def fit(self, kept: Tensor) -> float:
        """What its outputs lack, solved for the inputs of the kept units."""
        inputs, there = self.reader.inputs, self.free.clone()
        there[inputs[kept].flatten()] = True
        self.kept, self.left = kept, there.nonzero().flatten()
        self.lost = (~there).nonzero().flatten()
        own, across = self.products[self.left][:, self.left], self.products[self.left][:, self.lost]
        lost = self.reader.weight[self.lost]
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(own))
        moved = self.inverse @ across
        self.weight = self.reader.weight[self.left] + moved @ lost
        self.rest = self.products[self.lost][:, self.lost] - across.T @ moved
        self.pull = self.rest @ lost
        return self.scale * float((lost * self.pull).sum())

    def helps(self) -> Tensor:
        """`(u,)` by how much less each unit that has gone would leave, were it back."""
        units, places = self._where(~self.kept, self.lost)
        pull = self.pull[places]
        return self._spread_out(units, (pull * torch.linalg.solve(blocks(self.rest, places, places), pull)).sum((1, 2)))

    def costs(self) -> Tensor:
        """`(u,)` what the removal of each kept unit would add."""
        units, places = self._where(self.kept, self.left)
        weight = self.weight[places]
        own = blocks(self.inverse, places, places)
        return self._spread_out(units, (weight * torch.linalg.solve(own, weight)).sum((1, 2)))

    def _where(self, which: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
        """Some units, and the `(n, k)` places of their inputs among others."""
        units = which.nonzero().flatten()
        return units, torch.searchsorted(among, self.reader.inputs[units])

    def _spread_out(self, units: Tensor, values: Tensor) -> Tensor:
        found = torch.zeros(len(self.kept), dtype=torch.float64)
        found[units] = self.scale * values
        return found
