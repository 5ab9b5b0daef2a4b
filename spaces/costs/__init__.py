"""What a network costs, by arithmetic.

An operator that has no formula gets one by `register`; spaces that are traced later count it.

    sc.costs.register(torch.ops.mine.correlate, lambda call: [[*call.out, *call.axes("kernel")]])

A cost of the user's own can be a table of a device that was measured elsewhere, or what the allocator gives out.

    sc.Cost("phone_ms", measure=sc.costs.table("phone.csv"))
    sc.Cost("real_bytes", measure=sc.costs.measured_peak())

Start at `model.py`: every cost as a sum of monomials. `sizes.py` finds their factors, `formulas.py` the multiply-adds
of each operator, `counted.py` those that PyTorch counts, `alive.py` the memory at each moment, `breakdown.py` the part
of each module.
"""

from typing import TYPE_CHECKING

from ...lazy import face

if TYPE_CHECKING:
    from .formulas import Call, register
    from .of_device import measured_peak, table
else:
    __getattr__, __dir__ = face(__name__)

__all__ = ["Call", "measured_peak", "register", "table"]
