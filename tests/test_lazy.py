"""Names found late: pieces of installed packages by their entry points."""

import installed
import pytest

from secateur.pruners import METHODS
from secateur.search import SAMPLERS, sampler_factory
from secateur.studies.proposals.pruning import method_named
from secateur.studies.study_files.data import READERS, Data


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The registries, with the package installed; without it again afterwards."""
    installed.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    for registry in (METHODS, SAMPLERS, READERS):
        monkeypatch.delitem(vars(registry), "_added", raising=False)
        monkeypatch.setattr(registry, "_loaded", {})
    yield
    for registry in (METHODS, SAMPLERS, READERS):
        vars(registry).pop("_added", None)


def test_a_package_adds_methods_and_samplers_behind_ours(package):
    assert list(METHODS)[-2:] == ["other-name", "gone"] and list(METHODS)[0] == "l1"
    assert {"thin", "spread", "gone"} <= set(METHODS) and "spin" in SAMPLERS and "spin" not in METHODS
    assert len(METHODS) == len(list(METHODS))
    assert method_named("thin", {"start": 0.5}).start == 0.5
    assert method_named("spread", {"normalise": "max"}).normalise == "max"
    assert sampler_factory("spin")[0] == "spin"
    with pytest.raises(ValueError, match="thin has no setting 'stop'; expected one of start"):
        method_named("thin", {"stop": 1})


def test_a_package_adds_readers_behind_ours(package):
    assert Data(reader="stripes").task().sizes == {"train": 24, "validation": 8, "test": 8}
    with pytest.raises(TypeError, match="the reader 'no-images' gave a list; expected an ImageSet"):
        Data(reader="no-images").read()
    with pytest.raises(ValueError, match="reader 'stripe' is not known; did you mean 'stripes'"):
        Data(reader="stripe")
    assert READERS["folder"].__module__.startswith("secateur.")


def test_a_name_that_nothing_has_is_refused_with_the_nearest(package):
    with pytest.raises(ValueError, match="method 'thim' is not known; did you mean 'thin'"):
        method_named("thim")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone", "ModuleNotFoundError: No module named 'not_there'"),
        ("no-method", r"NoMethod is no pruning method, it has no allocates, selects, propose\(request\)"),
        ("other-name", "makes the method 'thin'; expected 'other-name'"),
        ("one-argument", "does not take a seed and a problem, too many positional arguments"),
        ("nothing", "AttributeError: module 'mine' has no attribute 'POINT'"),
        ("of-nothing", "TypeError: too many positional arguments"),
    ],
)
def test_an_entry_point_of_no_use_names_its_package(package, name, said):
    with pytest.raises(ImportError, match=rf"{name}' of the package mine 1.5 .*{said}.*mend that package"):
        next(registry for registry in (METHODS, SAMPLERS, READERS) if name in registry).named(name)
    assert method_named("l1").name == "l1"


def test_ours_come_first_and_a_clash_is_said(package, caplog):
    assert type(method_named("taylor")).__name__ == "Scored"
    list(METHODS)
    assert caplog.text.count("method 'taylor' of the package mine 1.5 is left out: secateur has one of that name") == 1


def test_of_two_packages_one_comes_first(package, tmp_path, caplog):
    installed.install(tmp_path, "yours")
    assert "thin" in METHODS
    assert "'thin' of the package" in caplog.text and "has one of that name; rename the entry point" in caplog.text
