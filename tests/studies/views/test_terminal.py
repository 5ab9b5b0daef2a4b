"""What fits a terminal: its columns whatever the names, colours only where they are wanted."""

import io
import os
import re

import pytest

from secateur.studies.views.terminal import COLUMNS, Style, beside, fitting, headed, shown, table


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


class Ascii(io.StringIO):
    encoding = "ascii"


def without_colours(text):
    return re.sub(r"\x1b\[\d+m", "", text)


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Style.of(Terminal()).colours
    assert not Style.of(io.StringIO()).colours
    monkeypatch.setenv("NO_COLOR", "")
    assert Style.of(Terminal()).colours, "an empty NO_COLOR is none"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Style.of(Terminal()).colours
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not Style.of(Terminal()).colours


def test_the_width_is_the_terminal_s(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert Style.of(io.StringIO()).width == Style.of(Terminal()).width == COLUMNS, "no one knows how wide it is"
    monkeypatch.setenv("COLUMNS", "132")
    assert Style.of(io.StringIO()).width == 132
    monkeypatch.setenv("COLUMNS", "wide")
    assert Style.of(io.StringIO()).width == COLUMNS
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size((100, 30)))
    monkeypatch.setattr(Terminal, "fileno", lambda self: 1)
    assert Style.of(Terminal()).width == 100 and Style.of(io.StringIO()).width == COLUMNS


def test_columns_that_do_not_fit_are_broken_into_lines():
    said = table([["name", "value"], ["a" * 100, "1"]], right=[1])
    assert all(len(line) <= COLUMNS for line in said.splitlines()) and said.count("a") == 102


def test_colours_change_no_column():
    rows = [["name", "value"], ["a", "1"], ["bb", "200"]]
    painted = table(rows, right=[1], best=2, style=Style(colours=True))
    assert painted != (plain := table(rows, right=[1], best=2)) and without_colours(painted) == plain
    assert plain.splitlines() == ["name  value", "a         1", "bb      200"]
    said = [("name", "word " * 40), ("bad", "news")]
    painted = beside(said, bad=("bad",), style=Style(colours=True))
    assert "\x1b[31mnews\x1b[0m" in painted and without_colours(painted) == beside(said)
    text = "budget\n  limit     satisfiable  of\n  params=1  no           0 %"
    assert headed(text, Style()) == text == without_colours(headed(text, Style(colours=True)))
    assert "\x1b[1mbudget" in headed(text, Style(colours=True)) and "\x1b[31mno\x1b" in headed(
        text, Style(colours=True)
    )


def test_sparklines():
    assert Style().spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert Style().spark([5, 5]) == "▁▁" and Style().spark([None, 2, None]) == " ▁ " and Style().spark([]) == ""
    assert Style.of(Ascii()).spark([1, 2]) == "" and Style.of(Terminal()).spark([1, 2]) == "▁█"


def test_what_an_encoding_lacks_is_a_question_mark():
    assert shown("größe", Ascii()) == "gr??e" and shown("größe ▁", Terminal()) == "größe ▁"


@pytest.mark.parametrize("length", [10, 78, 79, 200])
def test_names_and_words_of_any_length_fit(length):
    said = beside([("driver", "process 7 on " + "h" * length), ("failed", "/a/path" * length), ("x", "")])
    assert all(len(line) <= COLUMNS for line in said.splitlines())
    assert said.replace("\n", "").replace(" ", "").count("h") >= length, "nothing is left out"


def test_columns_that_are_wanted_most_get_the_room():
    columns = [["a" * 30], ["b" * 30], ["c" * 30], ["d" * 10]]
    assert fitting(columns, [0, 1, 2, 3]) == [0, 1, 3]
    assert fitting(columns, [2, 3, 1, 0]) == [1, 2, 3]
