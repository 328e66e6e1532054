"""The report as a page: what is in it, that nothing can be put into it, that it needs nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from tests.evidence.conftest import METRICS, Build, made_up_examples

from tunesmith.errors import RunError
from tunesmith.evidence.files import Example
from tunesmith.evidence.report import choose_examples, write_report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its tags with attributes, its text, and whether its tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(fake_run: Build, **changes: Any) -> Page:
    return Page(write_report(fake_run(**changes)).read_text(encoding="utf-8"))


def test_the_verdict_comes_first_then_curves_then_details(fake_run: Build) -> None:
    text = page(fake_run).text
    order = [
        "Improved",
        "On 160 test records",
        "What this test could show",
        "What was forgotten",
        "Before and after",
        "How it learnt",
        "Gradient norm",
        "Which records changed",
        "Changed most for the better",
        "Changed least, or for the worse",
        "Data",
        "Peak memory",
        "Recipe",
        "Versions",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_tags_are_balanced_and_identifiers_unique(fake_run: Build) -> None:
    parsed = page(fake_run)
    assert not parsed.open
    identifiers = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))


def test_the_page_asks_for_nothing_and_runs_nothing(fake_run: Build) -> None:
    parsed = page(fake_run)
    names = {name for name, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "audio", "video"}
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"href", "xlink:href", "src", "srcset", "action"}:
                assert (value or "").startswith("#")
    policy = next(a for a in parsed.all("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in (policy["content"] or "")


def test_the_style_loads_nothing(fake_run: Build) -> None:
    html = write_report(fake_run()).read_text(encoding="utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_nothing_in_a_run_can_put_markup_into_the_page(fake_run: Build) -> None:
    rows = [{**row, "prompt": HOSTILE, "output_after": HOSTILE} for row in made_up_examples()]
    rows = [{**row, "origin": HOSTILE, "reference": HOSTILE} for row in rows]
    row = {"description": HOSTILE, "unit": HOSTILE}
    run_dir = fake_run(
        examples=rows,
        metrics={"metrics": {"log_likelihood": row}, "probe": {"name": HOSTILE}},
        summary={
            "run": HOSTILE,
            "model": {"name": HOSTILE},
            "data": {"warnings": [HOSTILE], "classes": {HOSTILE: 3}, "format": HOSTILE},
            "hardware": {"cpu": HOSTILE},
            "versions": {"torch": HOSTILE},
        },
    )
    (run_dir / "recipe.yaml").write_text(f"model: |\n  {HOSTILE}\n  </pre></style>")
    html = write_report(run_dir).read_text(encoding="utf-8")
    parsed = Page(html)
    assert not {"script", "img"} & {name for name, _ in parsed.tags}
    assert "{{ 7*7 }}" in parsed.text
    assert parsed.text.count("<script>alert(1)</script>") > 20
    assert html.count("<style>") == html.count("</style>") == 1


def test_it_is_made_for_light_and_dark_and_for_a_phone(fake_run: Build) -> None:
    html = write_report(fake_run()).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in html
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in Page(html).all(
        "meta"
    )


@pytest.mark.parametrize("verdict", ["improved", "no evidence", "worse"])
def test_the_verdict_sets_the_tone(fake_run: Build, verdict: str) -> None:
    sections = page(fake_run, metrics={"verdict": verdict}).all("section")
    assert sections[0]["class"] == f"verdict {verdict.replace(' ', '-')}"


def test_the_table_has_every_metric_with_the_deciding_one_first(fake_run: Build) -> None:
    html = write_report(fake_run()).read_text(encoding="utf-8")
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    names = re.findall(r'<th scope="row">([^<]+)', body)
    assert [name.strip() for name in names] == [
        "log likelihood",
        "perplexity",
        "exact match",
        "ROUGE-L",
        "stops by itself",
    ]


def test_ten_best_and_ten_worst_of_the_answered_records_are_shown(fake_run: Build) -> None:
    parsed = page(fake_run)
    assert len(parsed.all("article")) == 20
    assert "from the 24 that the model answered for real" in parsed.text


@pytest.mark.parametrize(("before", "called"), [(" ", True), ("", True), ("Non.", False)])
def test_an_answer_that_is_empty_is_called_nothing(
    fake_run: Build, before: str, called: bool
) -> None:
    rows = [{**row, "output_after": "Oui.", "output_before": before} for row in made_up_examples()]
    assert (page(fake_run, examples=rows).text.count("nothing") >= 20) is called


def test_a_method_that_fits_at_once_has_no_curves(fake_run: Build) -> None:
    parsed = page(fake_run, events=[{"step": 1, "loss": 0.4, "tokens_per_second": 900.0}])
    assert "How it learnt" not in parsed.text
    assert "Before and after" in parsed.text


def test_a_run_with_bare_figures_still_gets_its_report(fake_run: Build) -> None:
    run_dir = fake_run(
        events=[],
        examples=[],
        metrics={"noise": None, "probe": None, "metrics": {"log_likelihood": {"p_value": None}}},
    )
    (run_dir / "summary.json").write_text('{"schema_version": 1, "run": "bare"}')
    (run_dir / "evaluation" / "predictions.parquet").unlink()
    parsed = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert "bare" in parsed.text
    assert not parsed.open


def test_metrics_without_a_value_show_a_dash(fake_run: Build) -> None:
    nothing = dict.fromkeys(("before", "after", "difference", "p_value", "detectable"))
    row = {**METRICS["metrics"]["log_likelihood"], **nothing, "interval": [None, None]}
    parsed = page(fake_run, metrics={"verdict": "no evidence", "metrics": {"log_likelihood": row}})
    assert "could not be measured both before and after" in parsed.text


def test_writing_twice_gives_the_same_page(fake_run: Build) -> None:
    run_dir = fake_run()
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first


def test_a_place_that_cannot_be_written_is_named(fake_run: Build) -> None:
    run_dir = fake_run()
    (run_dir / ".report.html.part").mkdir()
    with pytest.raises(RunError, match="report could not be written"):
        write_report(run_dir)


def example(improvement: float, after: str | None = None) -> Example:
    return Example("t:1", "p", "r", None, after, improvement, "log_likelihood")


def test_of_several_tasks_each_has_its_records_and_its_part_of_the_loss(fake_run: Build) -> None:
    row = METRICS["metrics"]["log_likelihood"]
    lost = {"origin": "chat.jsonl:9", "metric": None, "change": None}
    rows = [
        {"origin": f"{task}.jsonl:{i}", "prompt": f"asks {task} {i}", "reference": "right",
         "output_before": "old", "output_after": "new", "metric": f"{task}/figure",
         "change": change}
        for task, change in (("chat", 0.5), ("mood", -1.0)) for i in range(2)
    ]  # fmt: skip
    metrics = {
        "primary": "mood/figure",
        "metrics": {
            "chat/figure": row, "mood/figure": {**row, "higher_is_better": False},
        },
        "members": {
            task: {"primary": f"{task}/figure", "verdict": "improved"} for task in ("chat", "mood")
        },
    }  # fmt: skip
    terms = [{"chat/nll": 1.0}] * 2 + [{"chat/nll": 0.7, "mood/nll": 0.3}] * 3
    events = [{"step": i + 1, "loss": 1.0, "terms": each} for i, each in enumerate(terms)]
    text = page(
        fake_run, metrics=metrics, events=events, examples=[*rows, {**rows[0], **lost}]
    ).text
    of_chat, of_mood = "Which records changed: chat", "Which records changed: mood"
    assert text.index(of_mood) < text.index("asks mood 1") < text.index(of_chat)
    assert text.index(of_chat) < text.index("asks chat 1")
    assert text.count("2 of 2 test records got better in") == 2
    assert "chat.jsonl:9" not in text
    assert "What chat adds to the loss" in text
    assert "What mood adds to the loss" in text


def test_no_example_is_both_best_and_worst() -> None:
    chosen = choose_examples([example(value) for value in (0.1, 0.5, -0.2, 0.3)], shown=3)
    assert [e.improvement for e in chosen.best] == [0.5, 0.3, 0.1]
    assert [e.improvement for e in chosen.worst] == [-0.2]


def test_a_record_that_did_not_improve_is_not_among_the_best() -> None:
    chosen = choose_examples([example(0.0), example(-1.0)])
    assert not chosen.best
    assert [e.improvement for e in chosen.worst] == [-1.0, 0.0]


def test_answered_records_are_preferred_to_bare_figures() -> None:
    chosen = choose_examples([example(9.0), example(0.1, after="said")])
    assert [e.improvement for e in chosen.best] == [0.1]
    assert chosen.out_of == 1


def test_the_predicted_peak_of_memory_stands_beside_the_measured_one(fake_run: Build) -> None:
    sizes = {"predicted_memory_bytes": 3 * 2**30, "peak_memory_bytes": 2 * 2**30}
    words = " ".join(" ".join(page(fake_run, summary=sizes).words).split())
    assert "Peak memory predicted 3.00 GiB measured 2.00 GiB" in words
