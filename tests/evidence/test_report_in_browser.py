"""Report and page of a check in a browser: nothing overflows, nothing is fetched, dark is dark.

Needs Chromium, so it is not part of `make test`: run it with `pytest -m browser`.

The pages forbid scripts, so they are looked at from outside: a page of ours, served from this
machine together with them, holds one in a frame of a phone's width and writes down what it
measures.
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
from tests.evidence.test_check_page import deep, document, finding

from tunesmith.evidence.check_page import write_check_page
from tunesmith.evidence.report import write_report

pytestmark = pytest.mark.browser

PAGES = ("report.html", "check.html")

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
<iframe src="PAGE" style="width:WIDTHpx;height:800px;border:0"></iframe>
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
    line: ["stroke", "fill"].map(
      part => style(page.querySelector(".curves path[style*=series]"))[part]),
    smallest: Math.min(...all(".curves text").map(element => box(element).height)),
  });
};
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing: the requests are the test's own."""


@pytest.fixture
def served(fake_run: Build) -> Iterator[tuple[Path, str]]:
    """Serve the folder of a run that has its report, and the page of a check beside it."""
    run_dir = fake_run()
    write_report(run_dir)
    write_check_page(checked(), run_dir / "check.html", "0.1.0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(run_dir)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield run_dir, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def checked() -> dict[str, Any]:
    """A check that found much, of which some is one long word."""
    long = "x" * 400
    findings = [finding(kind, number) for kind in ("duplicate", "wrong_label") for number in (1, 2)]
    findings[0] |= {"text": long, "origin": f"{long}.jsonl:1", "reason": long}
    tokens = [{"text": "Read this: ", "trained": False}, {"text": long, "trained": True}]
    shown = [{"origin": "train.jsonl:1", "tokens": tokens, "learnt": long}]
    found = deep(*findings)
    found["classes"]["train"] |= {long[:80]: 3}
    return document(deep=found, shown=shown, warnings=[long])


def look(
    served: tuple[Path, str], tmp_path: Path, page: str, width: int, *flags: str
) -> dict[str, Any]:
    """Open a page in a frame of `width` pixels and return what was measured."""
    run_dir, address = served
    outside = OUTSIDE.replace("PAGE", page).replace("WIDTH", str(width))
    (run_dir / "outside.html").write_text(outside)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    command = [browser, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=4000", "--dump-dom", f"{address}/outside.html"]
    dump = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', dump, re.DOTALL)
    assert found is not None
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", [360, 820, 1280])
def test_nothing_is_wider_than_the_screen(
    served: tuple[Path, str], tmp_path: Path, page: str, width: int
) -> None:
    seen = look(served, tmp_path, page, width)
    assert seen["scrolls"] <= seen["width"] <= width
    assert not seen["tooWide"]


@pytest.mark.parametrize("page", PAGES)
def test_words_in_the_curves_can_be_read_on_a_phone(
    served: tuple[Path, str], tmp_path: Path, page: str
) -> None:
    assert look(served, tmp_path, page, 360)["smallest"] >= 9


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_fetched(served: tuple[Path, str], tmp_path: Path, page: str) -> None:
    assert look(served, tmp_path, page, 820)["fetched"] == []


@pytest.mark.parametrize("page", PAGES)
def test_dark_is_dark_and_light_is_light(
    served: tuple[Path, str], tmp_path: Path, page: str
) -> None:
    light = look(served, tmp_path / "light", page, 820)
    dark = look(served, tmp_path / "dark", page, 820, "--blink-settings=preferredColorScheme=0")

    def brightness(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    assert brightness(light["page"]) > 0.8 > 0.3 > brightness(light["ink"])
    assert brightness(dark["page"]) < 0.2 < 0.7 < brightness(dark["ink"])
    assert light["line"] != dark["line"]
