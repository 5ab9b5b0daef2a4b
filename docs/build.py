"""Builds the site of the docs: lays the pages out in build/site, runs the generator strictly, and checks its work.

    python docs/build.py            # into site/, as mkdocs.yml says

README becomes the front page, CONTRIBUTING and CHANGELOG pages; links between files of the repository follow. What a
page links to outside of `docs/` is copied beside the pages. The package is laid out by links, so that the API
reference is made from the sources, whatever is installed and whatever the checkout is called.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COMMANDS = "<!-- commands -->"  # of the page of the command line, where the help texts go
KEYS = "<!-- keys -->"  # of the page of the study file, where the tables of keys go
ROOMS = ("spaces", "pruners", "evaluators", "search", "studies", "testing")

_CODE = re.compile(r"(^(`{3,}).*?^\2`*$|`[^`\n]+`|<!--.*?-->)", re.DOTALL | re.MULTILINE)
_NOT_FOUND = "404.html"  # its links begin at the root of a server
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_LINK = re.compile(r"(\]\()([^()\s]+)(\))")


def lay_out(root: Path, to: Path) -> None:
    """Everything the generator reads: `to`/pages and `to`/package."""
    if to.exists():
        shutil.rmtree(to)
    package = to / "package" / "secateur"
    package.mkdir(parents=True)
    for name in ("__init__.py", "__main__.py", "lazy.py", "py.typed", *ROOMS):
        if (root / name).exists():
            (package / name).symlink_to(root / name)
    pages = to / "pages"
    pages.mkdir()
    given = [root / name for name in PLACES if (root / name).exists()]
    for source in sorted([*given, *(root / "docs").rglob("*")]):
        place = pages / _place(source.relative_to(root))
        if source.is_dir() or source.suffix in (".py", ".pyc"):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            place.write_text(_with_links(source, root, pages), encoding="utf-8")
        else:
            shutil.copyfile(source, place)


def _place(path: Path) -> Path:
    """Where a file of the repository lies among the pages."""
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    return Path(PLACES.get(path.as_posix(), Path("files") / path))


def _with_links(source: Path, root: Path, pages: Path) -> str:
    """A page with its links as they are on the site, and the help texts of the command line where it asks for them."""
    here = _place(source.relative_to(root)).parent

    def moved(match: re.Match[str]) -> str:
        path, sharp, anchor = match[2].partition("#")
        if not path or urlsplit(match[2]).scheme:
            return match[0]
        target = (source.parent / unquote(path)).resolve()
        if not target.is_relative_to(root) or not target.exists():
            return match[0]  # dead, as the generator will say
        place = _place(target.relative_to(root))
        if place.parts[0] == "files" and target.is_file():
            (pages / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, pages / place)
        return f"{match[1]}{os.path.relpath(place, here)}{sharp}{anchor}{match[3]}"

    text = source.read_text(encoding="utf-8")
    for mark, made in ((COMMANDS, commands), (KEYS, keys)):
        text = text.replace(mark, made()) if mark in text else text
    return outside_code(text, lambda part: _LINK.sub(moved, part))


def keys() -> str:
    """Every key of every table of a study file, as Markdown: a table for each of its tables."""
    from secateur.evaluators import Augment
    from secateur.studies.study_files.file import OwnData
    from secateur.studies.study_files.keys import TABLES
    from secateur.studies.study_files.keys import keys as keys_of

    parts = []
    heads = {f"[{name}]": kinds for name, kinds in TABLES.items()} | {"augment, a table in [data]": (Augment,)}
    for name, kinds in heads.items():
        for kind in kinds:
            which = f' of kind "{kind.kind}"' if hasattr(kind, "kind") else " of your own" if kind is OwnData else ""
            parts.append(f"\n## {name}{which}\n\n| key | is | default | means |\n|---|---|---|---|")
            for one in keys_of(kind):
                default = one.default if one.default in ("needed", "-") else f"`{one.default}`"
                parts.append(f"| `{one.name}` | {one.kind} | {default} | {one.text.replace('|', chr(92) + '|')} |")
    return "\n".join(parts) + "\n"


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Markdown with everything but its code and comments changed.

    >>> outside_code("a `a` a", str.upper)
    'A `a` A'
    """
    found, at = [], 0
    for match in _CODE.finditer(text):
        found += [change(text[at : match.start()]), match[0]]
        at = match.end()
    return "".join([*found, change(text[at:])])


def commands() -> str:
    """The help text of every command, as Markdown."""
    import typer

    from secateur.studies.commands.app import app

    group = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        context = command.make_context(f"secateur {name}", [], resilient_parsing=True)
        context.terminal_width = context.max_content_width = 100
        parts.append(f"## secateur {name}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


# --- what came out ----------------------------------------------------------------------------------------------------


def complaints(site: Path, names: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong with a built site: dead links, and public names that no page of the reference explains.

    Args:
        site: the folder.
        names: public names by package, such as `{"secateur.spaces": ["Space"]}`.
    """
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html")) if path.name != _NOT_FOUND}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    yield f"{path.relative_to(site)} loads {link} from the network"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{path.relative_to(site)} links to {link}, which does not exist"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)} links to {link}, and there is no such anchor"
    explained = {anchor for page in pages.values() for anchor in page.anchors}
    for package, public in names.items():
        for name in public:
            if not explained & {f"{package}.{name}", f"{package}.{name}.{name}"}:  # or of a module of that name
                yield f"{package}.{name} is public, and the reference does not explain it"


class _Page(HTMLParser):
    """The links of a page, which of them a browser loads by itself, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: set[str] = set()
        self.anchors: set[str] = {"__comments"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what an element refers to, and what refers to it."""
        for name, value in attributes:
            if value is None:
                continue
            if name in ("id", "name"):
                self.anchors.add(value)
            elif name in ("href", "src"):
                self.links.append(value)
                if name == "src" or tag == "link":
                    self.loaded.add(value)


def public_names() -> dict[str, list[str]]:
    """`__all__` of every room, read from the sources; the package's own names are some of these."""
    import ast

    found = {}
    for room in ROOMS:
        tree = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
        lists = [node.value for node in tree.body if isinstance(node, ast.Assign) and _is_all(node)]
        found[f"secateur.{room}"] = ast.literal_eval(lists[0])
    return found


def _is_all(node: object) -> bool:
    return any(getattr(target, "id", None) == "__all__" for target in getattr(node, "targets", []))


def main() -> int:
    """Build the site; 0 where nothing is wrong with it."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "build" / "site" / "package"))
    lay_out(ROOT, ROOT / "build" / "site")
    shutil.rmtree(ROOT / "site", ignore_errors=True)
    generator = [sys.executable, "-P", "-m", "zensical", "build", "--clean", "--strict", "--config-file", "mkdocs.yml"]
    ran = subprocess.run(generator, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ran.returncode or "warning" in ran.stdout.lower():
        print(_COLOUR.sub("", ran.stdout).partition("Traceback")[0].strip())
        return ran.returncode or 1
    found = list(complaints(ROOT / "site", public_names()))
    print(*found or [f"site/index.html: {sum(1 for _ in (ROOT / 'site').rglob('*.html'))} pages"], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
