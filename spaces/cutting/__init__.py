"""Surgery: what a cut changes in a module tree or in a graph. Start at `surgery.py`."""
