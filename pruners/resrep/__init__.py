"""ResRep: compactors, their insertion, and the merge back into the layers. Start at `resrep.py`."""
