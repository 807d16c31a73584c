"""Elements as HTML: what comes from outside is escaped, and nothing asks the network."""

import base64
import re

import numpy as np
import pytest

from autotl.page.base import Card, Code, Figure, Fold, Gallery, Picture, Table, Text
from autotl.page.charts import Point, Series, bars, curves, matrix, scatter, standalone, ticks
from autotl.page.render import Drawn, render_elements, render_page

HOSTILE = "<script>alert(1)</script>\x1b[2J&\"'"
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")


def all_elements(text):
    return [
        Text(text, "lead"),
        Code(f"{text}\nsecond line"),
        Table((text, "number"), [(text, 0.5), (text, 12345)], text, bold=1),
        Figure(bars([(text, 0.5)]), text, text),
        Gallery((Card(text, (Picture(PNG, text, text),), (text,)),)),
        Fold(text, (Text(text),)),
    ]


def test_what_comes_from_outside_is_escaped_in_every_place():
    page = render_page(HOSTILE, HOSTILE, [Drawn("one", HOSTILE, all_elements(HOSTILE))], HOSTILE)
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert page.count("<script>") == 1  # the page's own
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J&amp;") > 12


def test_the_policy_of_a_page_allows_no_request():
    page = render_page("a", "b", [Drawn("one", "One", all_elements("x"))])
    policy = page.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src &#39;none&#39;; img-src data:")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_numbers_of_a_table():
    html = render_elements([Table(("a", "b", "c", "d"), [(1234, 0.5, None, float("nan"))], digits={1: 1})])
    assert '<td class="number" data-value="1234">1,234</td>' in html
    assert '<td class="number" data-value="0.5">0.5</td>' in html
    assert "nan</td>" not in html
    assert "None</td>" not in html


def test_a_picture_of_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="neither a JPEG"):
        render_elements([Gallery((Card("a", (Picture(b"GIF89a", "b"),)),))])


@pytest.mark.parametrize(
    "svg",
    [
        bars([(HOSTILE, 0.5), ("b", float("nan"))]),
        curves([Series(HOSTILE, [1, 2], [3, 4]), Series("b", [1], [float("inf")], dots=True)], (HOSTILE, HOSTILE)),
        curves([Series("", [0.01, 100.0], [1, 1])], ("x", "y"), log=True, diagonal=True),
        curves([], ("x", "y")),
        matrix([HOSTILE, "b"], [HOSTILE, "b"], [[1, None], [0, 2]], labels=(HOSTILE, HOSTILE), diagonal=True),
        matrix(["a"] * 100, [HOSTILE] * 100, np.eye(100).tolist()),
        matrix([], [], []),
        scatter([Point(0, 0, 3, HOSTILE, "data:image/png;base64,AAAA", mistake=True)], {3: HOSTILE}),
        scatter([], {}),
    ],
)
def test_charts_are_well_formed_and_escaped(svg):
    from xml.etree import ElementTree

    for drawing in (svg, standalone(svg)):
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing
        assert "inf" not in drawing.replace("infinit", "")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [((1.3, 5.7), ["2", "5"]), ((0.5, 300), ["1", "10", "100"]), ((29, 71), ["30", "50", "70"])],
)
def test_a_logarithmic_axis_has_labels_within_a_decade_too(seconds, shown):
    svg = curves([Series("trials", seconds, (0.1, 0.9), dots=True)], ("seconds", "score"), log=True)
    labels = re.findall(r'text-anchor="middle">([\d.]+)<', svg)
    assert set(shown) <= set(labels)


def test_ticks_lie_inside():
    assert ticks(0.81, 0.87) == [0.82, 0.84, 0.86]
    assert ticks(3.0, 3.0) == [3.0]
    assert ticks(0.0, float("nan")) == [0.0]
