"""Where trials run: this process, local processes, Ray. Start at `executor.py`."""
