"""Methods that propose while somebody trains: callbacks of any loop. Start at `masks.py`."""
