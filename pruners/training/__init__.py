"""Methods that propose while the network trains: callbacks of any loop. Start at `masks.py`."""
