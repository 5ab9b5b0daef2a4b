"""The network as a graph of ATen operators, captured once.

Start at `capture.py`. `network.py` is the graph as all others see it, `modes.py` has the modes of a capture.
`blocks.py` finds the blocks that may be dropped, `residuals.py` what looks like one, `standin.py` takes their place.
"""
