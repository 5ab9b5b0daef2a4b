"""Scores of units, from weights, gradients, activations or whole filters. Start at `criteria.py`."""
