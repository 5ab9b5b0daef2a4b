"""How channels flow through each operator, and which must be cut together.

Start at `labels.py`, what a label is; then read `flow.py`, the walk over the graph; `rules.py` with `makers.py`,
`movement.py` and `shuffles.py`, a rule an operator; `components.py`, which labels go together; `layout.py`, the units
and groups.
"""
