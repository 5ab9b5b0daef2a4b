"""What can be seen from a study's folder alone. Start at `text.py`."""
