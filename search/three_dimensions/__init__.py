"""Width, depth and resolution in closed form. Start at `three_dimensions.py`."""
