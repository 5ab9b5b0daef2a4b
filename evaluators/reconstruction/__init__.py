"""Layers solved again so that a smaller network gives what the full one gives. Start at `reconstruct.py`.

`targets.py` is the full network's side, `layers.py` the small one's, `staging.py` stops forwards at their layers,
`solving.py` solves. What a layer saw and gave is read by `patches.py` of `spaces/networks`.
"""
