"""Measured time and memory, and a model that predicts them. Start at `latency.py`."""
