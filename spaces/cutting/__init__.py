"""What a cut changes in a module tree or in a graph.

Start at `surgery.py`: `plan` says which indices stay, `assemble` makes the module. `writer.py` does the same for a
graph whose constants follow. `masked.py` zeroes in the full network what a cut removes, `comparing.py` holds both
against each other.
"""
