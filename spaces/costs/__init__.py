"""What a network costs, by arithmetic.

An operator that has no formula gets one by `register`; spaces that are traced later count it.

    sc.costs.register(torch.ops.mine.correlate, lambda call: [[*call.out, *call.axes("kernel")]])

Ready functions for costs of the user's own (`sc.Cost`): `onnxruntime_ms`, `file_bytes`, and `table` for a device that
was measured elsewhere.

    sc.Cost("ort_ms", measure=sc.costs.onnxruntime_ms(threads=1))

Start at `model.py`: every cost as a sum of monomials. `sizes.py` finds their factors, `formulas.py` the multiply-adds
of each operator, `counted.py` those that PyTorch counts, `alive.py` the memory at each moment, `breakdown.py` the part
of each module.
"""

from typing import TYPE_CHECKING

from ...lazy import face

if TYPE_CHECKING:
    from .formulas import Call, register
    from .ready import file_bytes, onnxruntime_ms, table
else:
    __getattr__, __dir__ = face(__name__)

__all__ = ["Call", "file_bytes", "onnxruntime_ms", "register", "table"]
