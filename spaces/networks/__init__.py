"""Networks made by a space: built, masked, with shared or inherited weights. Start at `build.py`."""
