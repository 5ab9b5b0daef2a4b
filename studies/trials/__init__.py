"""What is known: every trial, the ledger that keeps them, the front. Start at `trial.py`."""
