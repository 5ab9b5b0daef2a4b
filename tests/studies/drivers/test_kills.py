"""What is killed again and again, and called again, ends as if it had not been; `tests/kills.py` kills more often."""

import kills
import pytest


@pytest.mark.parametrize(
    "kind", [kind if kind == "base training" else pytest.param(kind, marks=pytest.mark.slow) for kind in kills.KINDS]
)
def test_it_ends_as_if_it_had_not_been(tmp_path, kind):
    if kind in ("ray", "tune"):
        pytest.importorskip("ray")
    assert kills.strike(kind, tmp_path / "place", kills=3).startswith(f"{kind}: 3 kills in ")
