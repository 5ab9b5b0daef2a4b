"""Data, loss and error: what a network is judged by. Start at `task.py`."""
