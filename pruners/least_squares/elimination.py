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
        return self._worth(self.left).masked_fill(~self.left, torch.inf)

    def remove(self, units: Sequence[int]) -> float:
        """The damage after some units, not yet gone, went together."""
        if len(units):
            self.damage += sum(part.pivot(torch.tensor(units)) for part in self._parts)
            self.left[list(units)] = False
        return self.damage

    def swap(self) -> bool:
        """Put a unit back that has gone, and take the then cheapest away, if that lowers the damage."""
        if bool(self.left.all()) or not bool(self.left.any()):
            return False
        helps = self._worth(~self.left).masked_fill(self.left, -torch.inf)
        there = self.left.nonzero().flatten()
        for back in helps.argsort(descending=True, stable=True)[: min(_TRIED, int((~self.left).sum()))].tolist():
            costs = torch.stack([part.worth_after(there, back) for part in self._parts]).sum(0)
            cheapest = int(costs.argmin())
            if float(costs[cheapest] - helps[back]) < -1e-6 * self.damage:
                self.damage -= sum(part.pivot(torch.tensor([back])) for part in self._parts)
                self.left[back] = True
                self.remove([int(there[cheapest])])
                return True
        return False

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

    def _worth(self, which: Tensor) -> Tensor:
        """`(u,)` what some units add by their going, or take away by their coming back; 0 for others."""
        total = torch.zeros(len(self.left), dtype=torch.float64)
        units = which.nonzero().flatten()
        for part in self._parts:
            total[units] += part.worth(units)
        return total


class _Part:
    """One reader, solved for the inputs that are there.

    Its normal equations are pivoted on these: with A as above and S the inputs that are there, `system` has A_SS^-1 in
    the place of A_SS and A_LL - A_LS A_SS^-1 A_SL for the others, `weight` the best weights for S and, for the others,
    what pulls them back. A pivot on the inputs of a unit takes it away or puts it back, at `d^2` operations an input.
    """

    def __init__(self, reader: Reader) -> None:
        products = reader.centred
        self.inputs, self.scale = reader.inputs, 1 / reader.spread(products)
        self.system, self.weight = torch.cholesky_inverse(factor(products)), reader.weight.clone()

    def worth(self, units: Tensor) -> Tensor:
        """`(n,)` what each adds by its going, or takes away by its coming back."""
        inputs = self.inputs[units]
        return self._worth(blocks(self.system, inputs, inputs), self.weight[inputs])

    def worth_after(self, units: Tensor, other: int) -> Tensor:
        """As `worth`, once another unit has gone or come back."""
        inputs, pivot = self.inputs[units], self.inputs[other]
        own, weight = self.system[pivot][:, pivot], self.weight[pivot]
        across = self.system[inputs][:, :, pivot]
        moved = torch.linalg.solve(own, torch.cat([weight, self.system[pivot][:, inputs.flatten()]], 1))
        back = moved[:, weight.shape[1] :].reshape(len(pivot), *inputs.shape).movedim(0, 1)
        system = blocks(self.system, inputs, inputs) - across @ back
        return self._worth(system, self.weight[inputs] - across @ moved[:, : weight.shape[1]])

    def pivot(self, units: Tensor) -> float:
        """Take units away together, or put them back; what that adds to what the outputs lack, or takes away."""
        changed = self.inputs[units].flatten()
        columns, rows, weight = self.system[:, changed], self.system[changed], self.weight[changed]
        own = rows[:, changed]
        solved = torch.linalg.solve(own, torch.cat([weight, rows], 1))
        weights, rows = solved[:, : weight.shape[1]], solved[:, weight.shape[1] :]
        self.weight.addmm_(columns, weights, alpha=-1)
        self.system.addmm_(columns, rows, alpha=-1)
        self.weight[changed], self.system[changed] = weights, rows
        self.system[:, changed] = -torch.linalg.solve(own, columns, left=False)
        self.system[changed.unsqueeze(1), changed] = torch.linalg.inv(own)
        return self.scale * float((weight * weights).sum())

    def _worth(self, own: Tensor, weight: Tensor) -> Tensor:
        """`(n,)` tr(W^T A^-1 W) of `(n, k, k)` and `(n, k, o)`, all n at once: LAPACK would take them one by one."""
        own, weight, found = own.clone(), weight.clone(), torch.zeros(len(own), dtype=own.dtype)
        for at in range(own.shape[1]):
            pivot = own[:, at, at]
            found += weight[:, at].square().sum(1) / pivot
            share = (own[:, at + 1 :, at] / pivot.unsqueeze(1)).unsqueeze(2)
            weight[:, at + 1 :] -= share * weight[:, at : at + 1]
            own[:, at + 1 :, at + 1 :] -= share * own[:, at : at + 1, at + 1 :]
        return self.scale * found


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
    going = Elimination(len(kept), readers)
    going.remove((~kept).nonzero().flatten().tolist())
    done = 0
    while done < most and going.swap():
        done += 1
    return going.left, done
