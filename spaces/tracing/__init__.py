"""From a module to the facts of a space; every cut is tried on shapes first.

Start at `trace.py`: capture, follow, group, cost. `options.py` checks the arguments, `caches.py` has forwards make
again what they keep, `probe.py` runs networks without arithmetic, `dryrun.py` finds what does not shrink as predicted,
`layers.py` lists convolutions and linear layers.
"""
