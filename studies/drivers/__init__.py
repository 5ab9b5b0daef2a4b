"""Who runs a search. Start at `driver.py`."""
