"""The commands of the command line. Start at `app.py`."""
