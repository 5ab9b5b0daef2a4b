"""How channels flow through each operator, and which must be cut together. Start at `flow.py`."""
