"""What a study is told once. Start at `settings.py`."""
