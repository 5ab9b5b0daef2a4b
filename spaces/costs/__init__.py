"""What a network costs, by arithmetic: operators' formulas, and the memory that is alive. Start at `model.py`."""
