"""Methods that propose a network at once. Start at `scored.py`."""
