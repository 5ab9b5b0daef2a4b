"""A trial in, an outcome out. Start at `work.py`."""
