"""All constructs: a tiny network for everything that a network may contain."""

from constructs_base import Construct
from constructs_functional import FUNCTIONAL
from constructs_layers import LAYERS
from constructs_movement import MOVEMENT
from constructs_norms import NORMS
from constructs_odd import ODD
from constructs_operators import OPERATORS
from constructs_recurrent import RECURRENT
from constructs_wiring import WIRING

CONSTRUCTS: dict[str, Construct] = {
    **WIRING,
    **LAYERS,
    **MOVEMENT,
    **FUNCTIONAL,
    **NORMS,
    **ODD,
    **OPERATORS,
    **RECURRENT,
}
