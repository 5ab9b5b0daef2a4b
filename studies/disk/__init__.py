"""Whole files or none: writing, locks, scratch folders, artifacts. Start at `files.py`."""
