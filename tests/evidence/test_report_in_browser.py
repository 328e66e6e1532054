"""The report in a real browser: nothing overflows, nothing is fetched, dark is dark.

Needs Chromium, so it is not part of `make test`: run it with `pytest -m browser`.

The page forbids scripts, so it is looked at from outside: a page of ours, served from this machine
together with the report, holds it in a frame of a phone's width and writes down what it measures.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.evidence.conftest import Build

from tunesmith.evidence.report import write_report

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

OUTSIDE = """<!doctype html><body style="margin:0">
<iframe src="report.html" style="width:WIDTHpx;height:800px;border:0"></iframe>
<pre id="seen"></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  const all = selector => [...page.querySelectorAll(selector)];
  const style = element => view.getComputedStyle(element);
  const box = element => element.getBoundingClientRect();
  document.getElementById("seen").textContent = JSON.stringify({
    width: root.clientWidth,
    scrolls: root.scrollWidth,
    tooWide: all("section, h1, p, dl, figure, article, details")
      .filter(element => box(element).right > root.clientWidth + 1)
      .map(element => element.className || element.tagName),
    fetched: view.performance.getEntriesByType("resource").map(entry => entry.name),
    page: style(page.body).backgroundColor,
    ink: style(page.body).color,
    line: style(page.querySelector(".curves path[style*=series]")).stroke,
    smallest: Math.min(...all(".curves text").map(element => box(element).height)),
  });
};
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing: the requests are the test's own."""


@pytest.fixture
def served(fake_run: Build) -> Iterator[tuple[Path, str]]:
    """Serve the folder of a run that has its report."""
    run_dir = fake_run()
    write_report(run_dir)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(run_dir)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield run_dir, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def look(served: tuple[Path, str], tmp_path: Path, width: int, *flags: str) -> dict[str, Any]:
    """Open the report in a frame of `width` pixels and return what was measured."""
    run_dir, address = served
    (run_dir / "outside.html").write_text(OUTSIDE.replace("WIDTH", str(width)))
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    command = [browser, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=4000", "--dump-dom", f"{address}/outside.html"]
    dump = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', dump, re.DOTALL)
    assert found is not None
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen


@pytest.mark.parametrize("width", [360, 820, 1280])
def test_nothing_is_wider_than_the_screen(
    served: tuple[Path, str], tmp_path: Path, width: int
) -> None:
    seen = look(served, tmp_path, width)
    assert seen["scrolls"] <= seen["width"] <= width
    assert not seen["tooWide"]


def test_words_in_the_curves_can_be_read_on_a_phone(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    assert look(served, tmp_path, 360)["smallest"] >= 9


def test_nothing_is_fetched(served: tuple[Path, str], tmp_path: Path) -> None:
    assert look(served, tmp_path, 820)["fetched"] == []


def test_dark_is_dark_and_light_is_light(served: tuple[Path, str], tmp_path: Path) -> None:
    light = look(served, tmp_path / "light", 820)
    dark = look(served, tmp_path / "dark", 820, "--blink-settings=preferredColorScheme=0")

    def brightness(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    assert brightness(light["page"]) > 0.8 > 0.3 > brightness(light["ink"])
    assert brightness(dark["page"]) < 0.2 < 0.7 < brightness(dark["ink"])
    assert light["line"] != dark["line"]
