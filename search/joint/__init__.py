"""Joint numerical gradients over shared weights. Start at `joint.py`."""
