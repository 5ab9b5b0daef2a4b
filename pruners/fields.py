"""What the settings of methods may be: annotations that `spaces.checked.check` holds them against."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Le

from ..spaces.checked import AT_LEAST_0, AT_LEAST_1, BELOW_1, FINITE, POSITIVE

Count = Annotated[int, AT_LEAST_1]
Number = Annotated[float, AT_LEAST_0, FINITE]
Positive = Annotated[float, POSITIVE, FINITE]
Share = Annotated[float, POSITIVE, Le(1)]
"""In (0, 1]."""
Part = Annotated[float, AT_LEAST_0, BELOW_1]
"""In [0, 1)."""
