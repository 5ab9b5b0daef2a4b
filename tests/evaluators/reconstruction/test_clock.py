"""What takes time counts once."""

import time

import pytest

from secateur.evaluators.reconstruction.clock import Clock


def test_what_is_inside_counts_for_itself_alone():
    clock = Clock()
    with clock("outer"):
        time.sleep(0.02)
        for _ in range(2):
            with clock("inner"):
                time.sleep(0.1)
                with clock("core"):
                    time.sleep(0.05)
    assert 0.02 <= clock.seconds["outer"] < 0.09 and clock.seconds["inner"] >= 0.2 and clock.seconds["core"] >= 0.1
    assert clock.seconds["inner"] < clock.seconds["core"] + 0.2


def test_an_error_ends_a_count():
    clock = Clock()
    with pytest.raises(RuntimeError), clock("outer"), clock("inner"):
        raise RuntimeError
    with clock("outer"):
        pass
    assert set(clock.seconds) == {"outer", "inner"} and all(value >= 0 for value in clock.seconds.values())
