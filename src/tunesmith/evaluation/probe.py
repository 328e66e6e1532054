"""What was forgotten: a fixed piece of general text, read before and after.

    general_probe() ──probe_scores──> log-likelihood of each paragraph ──compare_probe──> perplexity

The text is encyclopaedic (`probes/README.md` names source and licence), tokens are scored by
teacher forcing, and the documents are the unit of the bootstrap. A model without a layer over the
vocabulary has no perplexity: then there is no probe, and `probe_refusal` says why.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from tunesmith.data.records import Document
from tunesmith.evaluation.significance import compare
from tunesmith.tasks.base import ExampleScore
from tunesmith.tasks.language_modeling import LanguageModeling

if TYPE_CHECKING:
    from tunesmith.console import Console
    from tunesmith.data.batch import Encoded
    from tunesmith.engine.engine import Engine

PROBE = "encyclopaedia"


@dataclass(frozen=True)
class ProbeComparison:
    """Perplexity on the probe, before and after.

    Attributes:
        tokens: that were scored.
        interval: of after − before.
        worse: whether there is evidence that general text became less likely.
    """

    name: str
    before: float
    after: float
    tokens: int
    interval: tuple[float, float]
    worse: bool

    def as_json(self) -> dict[str, object]:
        """Return the figures as `evaluation/metrics.json` has them."""
        return {
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "tokens": self.tokens,
            "unit": "perplexity",
            "interval": list(self.interval),
            "worse": self.worse,
        }


def general_probe() -> list[Document]:
    """Return the probe's paragraphs."""
    text = files("tunesmith.evaluation").joinpath(f"probes/{PROBE}.jsonl").read_text("utf-8")
    return [Document(text=json.loads(line)["text"]) for line in text.splitlines()]


def probe_refusal(engine: Engine) -> str | None:
    """Return why this model cannot read the probe, in words, or None where it can."""
    anatomy = engine.model.anatomy
    if anatomy.encoder is not None:
        return (
            "An encoder-decoder writes one text from another, so there is no perplexity of plain"
            " text to show what was forgotten."
        )
    if anatomy.kind != "decoder":
        return (
            "An encoder does not predict text from left to right, so there is no perplexity to"
            " show what was forgotten."
        )
    if anatomy.output is None:
        return (
            "With a head for classes the model has no layer over the vocabulary, so there is no"
            " perplexity to show what was forgotten."
        )
    if engine.model.tokenizer.eos_token_id is None:
        return "The tokenizer has no end-of-text token, so the probe's documents could not end."
    return None


def probe_scores(
    engine: Engine, console: Console, *, tokens_per_batch: int = 4096
) -> list[ExampleScore] | None:
    """Score the probe with the weights as they are now; None where `probe_refusal` says why not."""
    if probe_refusal(engine):
        return None
    task = LanguageModeling()
    task.bind(engine.model)
    return task.measure(
        engine,
        general_probe(),
        probe_examples(engine),
        generate=0,
        console=console,
        tokens_per_batch=tokens_per_batch,
    )


def probe_examples(engine: Engine) -> list[Encoded]:
    """Return the probe as this model reads it; empty where `probe_refusal` says why not."""
    if probe_refusal(engine):
        return []
    task = LanguageModeling()
    task.bind(engine.model)
    return task.encode_all(general_probe())


def compare_probe(
    before: Sequence[ExampleScore],
    after: Sequence[ExampleScore],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> ProbeComparison:
    """Compare two readings of the probe, by a paired bootstrap over its paragraphs.

    Raises:
        RunError: a perplexity is not finite.
    """
    metrics = {"perplexity": LanguageModeling().metrics["perplexity"]}
    comparison = compare(
        before,
        after,
        metrics,
        "perplexity",
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    row = comparison.rows["perplexity"]
    return ProbeComparison(
        PROBE,
        row.before,
        row.after,
        int(sum(score.statistics["tokens"] for score in after)),
        row.interval,
        comparison.verdict == "worse",
    )
