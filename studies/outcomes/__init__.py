"""A trial in, an outcome out. Start at `evaluation.py`."""
