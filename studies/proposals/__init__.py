"""What to try next: seeds and samplers. Start at `proposer.py`."""
