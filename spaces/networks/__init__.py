"""Networks of a candidate: built, checked against the full one, or sharing its parameters.

Start at `build.py`. `verifying.py` checks a network that was built, `inheriting.py` takes weights from a larger one,
`sharing.py` slices them out of the full one. `watching.py` tells of every layer that a forward calls, `patches.py`
reads what it saw.
"""
