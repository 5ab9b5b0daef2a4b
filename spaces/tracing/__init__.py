"""From a module to the facts of a space; every cut is tried on shapes first. Start at `trace.py`."""
