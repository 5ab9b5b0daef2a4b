"""Channels chosen for every input, by gates in the network: ManiDP. Start at `manidp.py`."""
