"""The network as a graph of ATen operators, captured once.

Start at `capture.py`. `network.py` is the graph as all others see it, `blocks.py` finds the blocks that may be dropped,
`modes.py` has the modes a forward is captured in.
"""
