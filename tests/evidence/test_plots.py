"""Drawings that take their colours from the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from matplotlib.textpath import TextPath

from tunesmith.evidence import plots

POINTS = [(float(step), 3.0 - step / 20) for step in range(1, 31)]


def drawing(name: str = "loss") -> str:
    lines = [plots.Line("training", POINTS, raw=True), plots.Line("validation", [(10.0, 2.4)])]
    return plots.curve(name, "Loss over the steps", lines, mark=(10.0, "best"))


def test_a_drawing_is_well_formed_svg_with_a_title() -> None:
    root = ET.fromstring(drawing())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "Loss over the steps"


def test_words_stay_words() -> None:
    texts = "".join(ET.fromstring(drawing()).itertext())
    for word in ("training", "validation", "best", "step"):
        assert word in texts


@pytest.mark.parametrize(
    "svg",
    [
        drawing(),
        plots.interval("i", "Difference", 0.3, (0.1, 0.5), better_is_up=True),
        plots.changes("c", "Changes", [-0.5, 0.1, 0.9]),
    ],
)
def test_every_colour_comes_from_the_page(svg: str) -> None:
    assert set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg)) <= {
        "none",
        "currentColor",
        "var(--series)",
        "var(--series-2)",
        "var(--soft)",
        "var(--better)",
        "var(--worse)",
    }


def test_two_drawings_share_no_identifier() -> None:
    one, other = (set(re.findall(r'\bid="([^"]+)"', drawing(name))) for name in ("a", "b"))
    assert one
    assert not one & other


def test_references_lead_to_identifiers_of_the_same_drawing() -> None:
    svg = drawing()
    known = set(re.findall(r'\bid="([^"]+)"', svg))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= known


def test_the_same_numbers_give_the_same_drawing() -> None:
    assert drawing() == drawing()


def test_an_interval_is_coloured_by_what_it_shows() -> None:
    def colours(low: float, high: float, *, better_is_up: bool = True) -> set[str]:
        svg = plots.interval("i", "t", (low + high) / 2, (low, high), better_is_up=better_is_up)
        return set(re.findall(r"var\(--(better|worse|series)\)", svg))

    assert colours(0.1, 0.2) == {"better"}
    assert colours(-0.2, -0.1) == {"worse"}
    assert colours(0.1, 0.2, better_is_up=False) == {"worse"}
    assert colours(-0.1, 0.1) == {"series"}


def test_a_title_is_escaped() -> None:
    svg = plots.changes("c", 'a "<b>" & c', [1.0, -1.0])
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'a "<b>" & c'


def test_no_label_is_cut_off_at_the_left() -> None:
    drawing = plots.changes("changes", "changes", [0.001 * number for number in range(24)])
    texts = re.findall(r'<text [^>]*x="([^"]+)"[^>]*>([^<]+)</text>', drawing)
    assert len(texts) > 3
    for right, label in texts:
        width = TextPath((0, 0), label, size=9).get_extents().width
        assert float(right) > width, label
