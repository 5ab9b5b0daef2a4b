"""Every one of some with every one of others, of which a part is quick."""

import itertools

import pytest


def quick_some(part, ones, first=0):
    """All; of every few one is quick, which ones goes with the first."""
    step = round(1 / part)
    return [
        one if place % step == first % step else pytest.param(one, marks=pytest.mark.slow)
        for place, one in enumerate(ones)
    ]


def quick_in(part, ones, others):
    """All pairs; those that are not in this part are slow. Each of both has quick ones where the others are enough."""
    step = round(1 / part)
    return [
        pytest.param(one, other, marks=() if (place + beside) % step == 0 else pytest.mark.slow)
        for (place, one), (beside, other) in itertools.product(enumerate(ones), enumerate(others))
    ]
