"""Who runs a search. Start at `run.py`."""
