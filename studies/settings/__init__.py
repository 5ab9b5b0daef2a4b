"""What a study is told once. Start at `search.py`."""
