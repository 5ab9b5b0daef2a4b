"""Links between pages lead somewhere, anchors included; nothing is fetched from the network."""

import re
from urllib.parse import unquote, urlsplit

import pytest
from doc_pages import PAGES, ROOT, inline, tokens

ALL = [*PAGES, "CHANGELOG.md"]


def anchors(page):
    """The anchors of a page's headings, where both a code host and the site's generator make them alike."""
    found = list[str]()
    heading = False
    for token in tokens(page):
        if token.type == "heading_open":
            heading = True
        elif token.type == "inline" and heading:
            heading = False
            text = "".join(child.content for child in token.children or [] if child.type in ("text", "code_inline"))
            kept = re.sub(r"[^\w\s-]", "", text.lower()).strip()
            if re.sub(r"\s", "-", kept) == re.sub(r"[-\s]+", "-", kept):
                found.append(re.sub(r"\s", "-", kept))
    return found


def links(page):
    for token in inline(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if target:
            yield str(target)


@pytest.mark.parametrize("page", ALL)
def test_links_lead_somewhere(page):
    for target in links(page):
        parts = urlsplit(target)
        if parts.scheme:
            assert parts.scheme in ("https", "mailto"), target
            continue
        place = (ROOT / page).parent / unquote(parts.path) if parts.path else ROOT / page
        assert place.exists(), target
        of = place.resolve().relative_to(ROOT.resolve()).as_posix()
        if parts.fragment and not of.startswith(
            "docs/reference/"
        ):  # those are made from the sources; see docs/build.py
            assert parts.fragment in anchors(of), target


def test_headings_of_a_page_have_anchors_of_their_own():
    for page in PAGES:
        found = anchors(page)
        assert len(found) == len(set(found)), page


def test_docs_are_named_as_files_that_exist():
    """Pages are named in code and benchmarks too: `docs/x.md`."""
    for folder in ("spaces", "search", "evaluators", "pruners", "studies", "testing", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
                written_by_it = f"write {name}" in path.read_text() or f"writes {name}" in path.read_text()
                assert (ROOT / name).exists() or written_by_it, f"{path.relative_to(ROOT)} names {name}"


@pytest.mark.parametrize("page", ALL)
def test_rows_of_tables_are_in_tables(page):
    """A blank line within a table makes text of its second half."""
    for token in tokens(page):
        if token.type == "inline":
            assert not token.content.startswith("|"), f"line {token.map[0] + 1}"


@pytest.mark.parametrize("page", ALL)
def test_no_place_is_left_to_fill_in(page):
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.fullmatch(r"[A-Z]{3,}\d*", line.strip())] == []
