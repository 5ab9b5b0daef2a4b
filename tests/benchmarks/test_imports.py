"""What benchmarks import of the library is there, also where no test runs them."""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


def there(module, name):
    """A name of the module, or a module within it, which may be imported already or not."""
    return hasattr(module, name) or find_spec(f"{module.__name__}.{name}") is not None


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "secateur":
            module = import_module(node.module)
            assert not [name.name for name in node.names if not there(module, name.name)]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "secateur":
                    import_module(name.name)
