"""The report in a real browser: charts draw, hover works, nothing is loaded, nothing complains."""

import pytest
from browser import browser, chromium
from landscapes import tiny_net
from reported import EVIL, make

from secateur.studies.pages import report

pytest.importorskip("plotly", reason="the report extra is not installed")
pytest.importorskip("matplotlib", reason="the report extra is not installed")
pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed: apt-get install chromium")

DRAWN = "[...document.querySelectorAll('.chart')].every(one => one.dataset.drawn === 'yes')"
WIDE = "document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The report of two studies; the first one's folder has a name that is code."""
    place = tmp_path_factory.mktemp("reports")
    make(place / "plain", 24)
    evil = place / EVIL.replace("/", "")
    make(evil, 8, seed=1, sampler="random")
    return {
        "one": report(place / "plain", place / "one.html", model=tiny_net()),
        "two": report(evil, place / "two.html", beside=place / "plain", model=tiny_net(), timed=False),
    }


@pytest.fixture(scope="module")
def chrome():
    with browser() as found:
        yield found


@pytest.fixture
def window(chrome):
    """The browser, of which nothing is known yet, light and wide."""
    chrome.events.clear()
    chrome.look()
    return chrome


def points(chart: str) -> int:
    """How many points and bars a chart drew."""
    return f"document.querySelectorAll('#{chart} .scatterlayer .point, #{chart} .barlayer .point path').length"


@pytest.mark.parametrize("which", ["one", "two"])
def test_charts_draw_and_nothing_is_loaded_or_complained_of(window, made, which):
    window.open(made[which].page)
    window.wait(DRAWN)
    charts = window.run("[...document.querySelectorAll('.chart')].map(one => one.id)")
    assert len(charts) >= 9 and len(set(charts)) == len(charts)
    for chart in charts:
        assert window.run(f"document.getElementById('{chart}').data.some(one => one.x.length > 0)"), chart
        drawn = f"#{chart} svg.main-svg .scatterlayer path, #{chart} svg.main-svg .barlayer path"
        assert window.run(f"document.querySelectorAll('{drawn}').length") > 0, chart
    expected = 0
    for study in made[
        which
    ].studies:  # seeds on the front are drawn twice, the pick has a ring, the full network a star
        expected += len(study.scored) + sum(one.source.startswith("seed:") for one in study.front) + 2
    assert window.run(points("front-0")) == expected
    assert window.asked_for() == [made[which].page.resolve().as_uri()]
    assert window.said() == []
    assert window.run("window.hacked") is None
    assert window.run("document.images.length") == 0


def test_hover_says_what_a_trial_is(window, made):
    window.open(made["one"].page)
    window.wait(DRAWN)
    best = made["one"].studies[0].best
    at = "(place => { const p = place._fullLayout; const t = place.data.find(one => one.name === 'picked'); "
    at += "const box = place.getBoundingClientRect(); "
    at += (
        "return [box.left + p.xaxis._offset + p.xaxis.d2p(t.x[0]), box.top + p.yaxis._offset + p.yaxis.d2p(t.y[0])]; })"
    )
    x, y = window.run(f"{at}(document.getElementById('front-0'))")
    window.hover(x, y)
    said = window.wait("document.querySelector('#front-0 .hoverlayer .hovertext')?.textContent")
    assert f"trial {best.number}" in said and f"{100 * best.measures['error']:.2f}% ± 1.00" in said
    assert "multiply-adds" in said and "layer1" in said
    if best.predicted is not None:
        assert "predicted" in said
    assert window.said() == []


def test_a_click_tells_what_a_network_is_and_where_its_files_are(window, made):
    window.open(made["one"].page)
    window.wait(DRAWN)
    study = made["one"].studies[0]
    chart = "document.getElementById('front-0')"
    below = "document.querySelector('#front .detail')"
    assert window.run(f"{below}.hidden")
    which = f"{chart}.data.findIndex(one => one.name === 'picked')"
    window.run(f"{chart}.emit('plotly_click', {{points: [{{curveNumber: {which}, pointNumber: 0}}]}})")
    said = window.run(f"{below}.textContent").splitlines()
    assert said[0].startswith(f"trial {study.best.number} ({study.best.candidate.key})") and not window.run(
        f"{below}.hidden"
    )
    assert f"stem: {study.best.candidate[0]} of 8" in said and any(line.startswith("files: ") for line in said)
    assert window.run("document.documentElement.scrollWidth") <= 1200 and window.said() == []


def test_menus_change_the_chart(window, made):
    window.open(made["one"].page)
    window.wait(DRAWN)
    study = made["one"].studies[0]
    choose = "(number => { const s = document.querySelectorAll('select')[number]; s.selectedIndex = 1; "
    choose += "s.dispatchEvent(new Event('change')); })"
    window.run(f"{choose}(0)")
    assert window.wait("document.getElementById('hypervolume-0').layout.xaxis.title.text") == "seconds of evaluation"
    window.run(f"{choose}(1)")
    other = study.shown[1].number
    window.wait(f"document.getElementById('widths-0').data[1].name.startsWith('trial {other}: error ')")
    assert window.run("[...document.getElementById('widths-0').data[1].x]") == study.anatomy.widths[other]
    said = window.run("[...document.getElementById('widths-0').data[1].text]")
    assert said[0] == f"stem: {study.anatomy.widths[other][0]} of 8"
    assert window.said() == []


def test_light_and_dark(window, made):
    colour = "getComputedStyle(document.querySelector('#front-0 .xtick text')).fill"
    window.open(made["one"].page)
    window.wait(DRAWN)
    light = window.run(colour), window.run("getComputedStyle(document.body).backgroundColor")
    window.look(dark=True)
    window.wait(f"{colour} !== '{light[0]}'")
    dark = window.run(colour), window.run("getComputedStyle(document.body).backgroundColor")
    assert bright(light[0]) < 100 < 150 < bright(light[1])
    assert bright(dark[1]) < 100 < 150 < bright(dark[0])


def bright(colour: str) -> float:
    """Of `rgb(1, 2, 3)`."""
    return sum(float(part) for part in colour.strip("rgba()").split(",")[:3]) / 3


@pytest.mark.parametrize("which", ["one", "two"])
def test_a_phone_shows_it_without_scrolling_sideways(window, made, which):
    window.look(width=360, height=740, phone=True)
    window.open(made[which].page)
    window.wait(DRAWN)
    assert window.run(WIDE) <= 360
    rights = "[...document.querySelectorAll('.chart svg.main-svg')].map(one => one.getBoundingClientRect().right)"
    assert max(window.run(rights)) <= 360


def test_a_window_that_is_resized_takes_the_charts_along(window, made):
    window.open(made["one"].page)
    window.wait(DRAWN)
    window.look(width=700)
    window.wait("document.querySelector('#front-0 svg.main-svg').getBoundingClientRect().right <= 700")


def test_it_prints(window, made):
    window.look(dark=True)
    window.open(made["one"].page)
    window.wait(DRAWN)
    assert window.printed().startswith(b"%PDF")
    assert window.said() == []


def test_reasons_and_names_stand_there_as_text(window, made):
    window.open(made["two"].page)
    window.wait(DRAWN)
    failed = [study.status.failures for study in made["two"].studies]
    assert any(failed), "one of the studies has a failure with code in its reason"
    assert window.run("document.getElementById('failures').textContent.includes('<img src=x onerror=')")
    assert window.run("document.querySelector('h1').textContent.includes('<img src=x onerror=')")
    legend = window.run("[...document.querySelectorAll('#front-0 .legendtext')].map(one => one.textContent).join()")
    assert "<img src=x onerror=" in legend and "$x$" in legend
    assert window.run("window.hacked") is None
