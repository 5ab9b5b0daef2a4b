"""The one training loop, and what goes around it. Start at `training.py`."""
