"""How the site is laid out and checked; `make docs` builds it."""

import importlib.util
import re

import pytest
import yaml
from doc_pages import PAGES, ROOT

from secateur.lazy import homes

_SPEC = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
build = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(build)


def navigated(entries):
    for entry in entries:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else navigated(value)


def test_every_page_is_in_the_navigation_of_mkdocs_yml():
    places = [build.PLACES.get(page, page.removeprefix("docs/")) for page in [*PAGES, "CHANGELOG.md"]]
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    there = list(navigated(settings["nav"]))
    assert len(there) == len(set(there))
    assert set(there) - set(places) == set(), "pages that are not there"
    assert set(places) - set(there) == set(), "pages that nobody finds; add them to `nav`"


def test_the_reference_names_every_room():
    for room in build.ROOMS:
        assert f"::: secateur.{room}\n" in (ROOT / "docs" / "reference" / f"{room}.md").read_text()
    names = build.public_names()
    assert "Space" in names["secateur.spaces"] and set(names) == {f"secateur.{room}" for room in build.ROOMS}


def test_the_page_of_the_package_links_every_name_of_its_face():
    page = (ROOT / "docs" / "reference" / "secateur.md").read_text()
    linked = {name: place for name, place in re.findall(r"\[`(\w+)`\]\[([\w.]+)\]", page)}
    late = homes("secateur")
    modules = {name for name, home in late.items() if home.endswith(".study_files")}
    assert linked == {name: f"{home}.{name}" for name, home in late.items() if name not in modules}
    assert all(f"`{name}`" in page for name in modules)


def test_the_figures_in_how_to_choose_stand_on_the_pages_that_it_links():
    page = (ROOT / "docs" / "choosing.md").read_text()
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        linked = "".join((ROOT / "docs" / name).read_text() for name in re.findall(r"\]\((\w+\.md)", section))
        for figure in re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", re.sub(r"`[^`]*`", "", section)):
            assert figure in linked, f"{figure} in {section.splitlines()[0]}"


# --- laying out -------------------------------------------------------------------------------------------------------


FRONT = "[a](docs/a.md#b) [c](CHANGELOG.md) `[no](docs/a.md)`\n\n```\n[no](docs/a.md)\n```\n"
INNER = "[r](../README.md) [x](../code/x.py) [s](https://x.org/docs/a.md) [#](#b)\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "docs" / "deeper").mkdir(parents=True)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_text("x = 1\n")
    (tmp_path / "spaces").mkdir()
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n")
    (tmp_path / "README.md").write_text(
        "[a](docs/a.md#b) [c](CHANGELOG.md) `[no](docs/a.md)`\n\n```\n[no](docs/a.md)\n```\n"
    )
    (tmp_path / "docs" / "a.md").write_text(
        "[r](../README.md) [x](../code/x.py) [s](https://x.org/docs/a.md) [#](#b)\n"
    )
    (tmp_path / "docs" / "deeper" / "d.md").write_text("[a](../a.md#b) [r](../../README.md) [n](none.md)\n")
    (tmp_path / "docs" / "p.png").write_bytes(b"png")
    return tmp_path


def test_links_follow_the_pages(root):
    build.lay_out(root, root / "to")
    pages = root / "to" / "pages"
    front = (pages / "index.md").read_text()
    assert front.startswith("[a](a.md#b) [c](changelog.md) `[no](docs/a.md)`")
    assert front.endswith("```\n[no](docs/a.md)\n```\n"), "code stays as it is"
    assert (pages / "a.md").read_text() == "[r](index.md) [x](files/code/x.py) [s](https://x.org/docs/a.md) [#](#b)\n"
    assert (pages / "deeper" / "d.md").read_text() == "[a](../a.md#b) [r](../index.md) [n](none.md)\n"
    assert (pages / "files" / "code" / "x.py").read_text() == "x = 1\n"
    assert (pages / "p.png").read_bytes() == b"png"
    assert (root / "to" / "package" / "secateur" / "spaces").is_dir()
    build.lay_out(root, root / "to")  # again, over what is there


def test_the_page_of_the_command_line_has_every_command():
    text = build.commands()
    for name in ("trace", "search", "resume", "status", "front", "export", "prune", "dashboard"):
        assert f"## secateur {name}\n" in text
    assert "--budget NAME=LIMIT" in text


# --- checking ---------------------------------------------------------------------------------------------------------


def complaints(site, html, names=()):
    site.mkdir(exist_ok=True)
    (site / "a.html").write_text(html)
    (site / "b.html").write_text('<h2 id="here">b</h2><a id="secateur.search.Told"></a>')
    return list(build.complaints(site, {"secateur.search": list(names)}))


def test_a_site_without_faults(tmp_path):
    fine = (
        '<a href="b.html#here">x</a><a href="#own">x</a><p id="own"><a href="https://x.org">x</a><a href="mailto:a@b">'
    )
    assert complaints(tmp_path / "site", fine, ["Told"]) == []


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ('<a href="none.html">', "none.html, which does not exist"),
        ('<img src="none.png">', "none.png, which does not exist"),
        ('<a href="b.html#there">', "no such anchor"),
        ('<a href="#there">', "no such anchor"),
        ('<script src="https://x.org/x.js"></script>', "from the network"),
        ('<link rel="stylesheet" href="//x.org/x.css">', "from the network"),
    ],
)
def test_faults_are_found(tmp_path, html, said):
    (found,) = complaints(tmp_path / "site", html)
    assert said in found


def test_a_public_name_without_a_place_is_found(tmp_path):
    (found,) = complaints(tmp_path / "site", "", ["Told", "Untold"])
    assert "secateur.search.Untold is public" in found
