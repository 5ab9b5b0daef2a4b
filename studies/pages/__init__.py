"""A study as a page to look at: one HTML file that works from disk, and PNG files of its charts.

`facts` reads a study's folder into plain values, `page` puts them into HTML with charts by plotly; as pictures,
matplotlib draws the same charts. Both libraries come with `pip install 'secateur[report]'`, and are imported when a
page is made.

    from secateur.studies.pages import report
    report("runs/a", "a.html")
    report("runs/a", "both.html", beside="runs/b", pictures="pictures")

Start reading at `making.py`.
"""

from .making import report

__all__ = ["report"]
