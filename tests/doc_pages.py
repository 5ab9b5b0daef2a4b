"""The pages of the docs, and the code blocks in them."""

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]
_PARSER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A block of code: fenced, in a language; or indented, in none."""

    page: str
    line: int
    language: str
    text: str


def tokens(page):
    return _PARSER.parse((ROOT / page).read_text(encoding="utf-8"))


def inline(page):
    """The parts of every line of text: words, links, images, `code`."""
    return [child for token in tokens(page) if token.type == "inline" for child in token.children or []]


def blocks(page, *languages):
    found = [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in tokens(page)
        if token.type in ("fence", "code_block")
    ]
    return [block for block in found if not languages or block.language in languages]
