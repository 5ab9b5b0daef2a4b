"""The polynomial surrogate and its sampler. Start at `polynomial.py`."""
