"""Ridge least squares from sums over rows: the change of a layer's weights that leaves the least error of its outputs.

With the inherited weights W0 and E = Y - Z W0, the new ones are W0 + D, where D has the least
|| Z D + 1 b^T - E ||^2 + r || D ||^2: the ridge r draws towards what was inherited.

Z      (r, g, d)   what the small network's layer sees
E      (r, g, o)   what its outputs lack of the full network's
D      (g, d, o)   change of the weights
b      (g, o)      change of the bias
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, math.inf)
"""Shares of the mean square of a layer's inputs that are tried as its ridge; the last changes the bias alone."""


@dataclass
class Sums:
    """Sums over rows, in double precision; products of the rows of one call with one batch in that of the network.

    Attributes:
        rows: how many there were.
        z: `(g, d)` sum of Z.
        e: `(g, o)` sum of E.
        zz: `(g, d, d)` products of Z.
        ze: `(g, d, o)` products of Z and E.
        ee: sum of the squares of E.
        y: `(g, o)` sum of the targets.
        yy: sum of the squares of the targets.
    """

    rows: int
    z: Tensor
    e: Tensor
    zz: Tensor
    ze: Tensor
    ee: float = 0.0
    y: Tensor | float = 0.0
    yy: float = 0.0

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int, device: torch.device) -> Sums:
        """Of no rows."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        return cls(rows=0, z=zeros(inputs), e=zeros(outputs), zz=zeros(inputs, inputs), ze=zeros(inputs, outputs))

    def add(self, z: Tensor, e: Tensor, y: Tensor) -> None:
        """Add rows: Z, E and the targets `(r, g, o)`."""
        by_group, double = z.permute(1, 2, 0), torch.float64
        self.rows += len(z)
        self.z += z.sum(0, dtype=double)
        self.e += e.sum(0, dtype=double)
        self.zz += by_group @ by_group.transpose(1, 2)
        self.ze += by_group @ e.transpose(0, 1)
        self.ee += float(e.square().sum(dtype=double))
        self.y = self.y + y.sum(0, dtype=double)
        self.yy += float(y.square().sum(dtype=double))

    def error(self, change: Tensor, shift: Tensor) -> float:
        """|| E - Z D - 1 b^T ||^2."""
        reached = self.zz @ change
        found = (change * reached).sum() - 2 * (change * self.ze).sum() - 2 * (shift * self.e).sum()
        found += 2 * (shift * (self.z.unsqueeze(1) @ change).squeeze(1)).sum() + self.rows * shift.square().sum()
        return max(0.0, self.ee + float(found))

    @property
    def spread(self) -> float:
        """Sum of the squares of the targets around their means."""
        mean = torch.as_tensor(self.y) / max(1, self.rows)
        return max(0.0, self.yy - self.rows * float(mean.square().sum()))


def solved(sums: Sums, share: float, *, shifts: bool = True) -> tuple[Tensor, Tensor]:
    """D and b.

    Args:
        sums: over the rows that are solved on.
        share: of the mean of the inputs' squares, in each group: the ridge r; infinite leaves D at zero.
        shifts: whether there is a bias; b is zero without.
    """
    mean_z, mean_e = sums.z / max(1, sums.rows), sums.e / max(1, sums.rows)
    change, shift = torch.zeros_like(sums.ze), torch.zeros_like(sums.e)
    zz, ze = sums.zz, sums.ze
    if shifts:  # sums of centred rows
        zz = zz - sums.rows * mean_z.unsqueeze(2) * mean_z.unsqueeze(1)
        ze = ze - sums.rows * mean_z.unsqueeze(2) * mean_e.unsqueeze(1)
    if math.isfinite(share):
        scale = zz.diagonal(dim1=1, dim2=2).mean(1)
        ridge = torch.where(scale > 0, share * scale, 1.0)  # inputs that are always zero: nothing to learn from them
        regular = zz + ridge.view(-1, 1, 1) * torch.eye(zz.shape[1], dtype=zz.dtype, device=zz.device)
        factor, failed = torch.linalg.cholesky_ex(regular)
        if bool(failed.any()):  # without a ridge, inputs may depend on one another
            change = torch.linalg.pinv(regular, hermitian=True) @ ze
        else:
            change = torch.cholesky_solve(ze, factor)
    if shifts:
        shift = mean_e - (mean_z.unsqueeze(1) @ change).squeeze(1)
    return change, shift


def best(train: Sums, held_out: Sums, shares: Sequence[float], *, shifts: bool) -> tuple[Tensor, Tensor, float] | None:
    """D, b and the share of the ridge with the least error on rows that were not solved on; None: change nothing."""
    least, found = held_out.ee, None
    for share in shares:
        if not shifts and not math.isfinite(share):
            continue
        change, shift = solved(train, share, shifts=shifts)
        error = held_out.error(change, shift)
        if error < least:
            least, found = error, (change, shift, share)
    return found
