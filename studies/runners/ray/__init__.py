"""Runners on Ray: warm actors, and Ray Tune. Start at `actors.py`."""
