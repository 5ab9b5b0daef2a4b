"""Labelled images, from archives, folders and tables, and their split. Start at `splits.py`."""
