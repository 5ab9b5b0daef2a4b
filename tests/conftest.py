"""One thread and one seed for every test: what passes must not depend on the cores, nor on what ran before."""

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

torch.set_num_threads(1)


def pytest_collectstart(collector):
    """Weights that a module draws while it is imported are its own."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    """What takes long comes first: of two processes none has such a file left when the other is done."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/examples", "tests/studies")))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def left_as_found():
    """Whatever was entered while a network was looked at is left again, also where it was refused."""
    yield
    assert not _get_current_function_mode_stack()
    assert not _get_current_dispatch_mode_stack()
    assert torch.is_grad_enabled()


@pytest.fixture(autouse=True, scope="session")
def each_once():
    from once import each_once

    with each_once():
        yield
