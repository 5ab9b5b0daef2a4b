"""What a network costs, by arithmetic.

Start at `model.py`: every cost as a sum of monomials. `sizes.py` finds their factors, `formulas.py` the multiply-adds
of each operator, `alive.py` the memory at each moment, `breakdown.py` the part of each module.
"""
