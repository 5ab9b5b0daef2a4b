"""The captured network: operators, shapes at each side, the blocks that may be dropped. Start at `capture.py`."""
