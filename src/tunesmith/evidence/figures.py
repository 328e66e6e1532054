"""How a figure is written: as many digits as it carries, with its unit, in the same way everywhere.

In: numbers. Out: short texts. `None` and what is not finite become a dash. Knows no metric.
"""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape

MINUS = "\u2212"
NONE = "–"
_SPELT = {
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "ndcg_at_10": "nDCG@10",
    "r_squared": "R²",
    "lora": "LoRA",
    "bleu": "BLEU",
    "chrf": "chrF",
}


def number(value: float | None, *, signed: bool = False) -> str:
    r"""Write a figure: four significant digits from 1 on, below three decimals or two digits.

    >>> number(1234.5), number(18.204), number(-0.0833), number(0.00042), number(0.0)
    ('1,234', '18.20', '\u22120.083', '0.00042', '0')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    magnitude = abs(value)
    text = f"{magnitude:,.{_decimals(magnitude)}f}" if magnitude >= 1e-6 else f"{magnitude:.1e}"
    return (MINUS if value < 0 else "+" if signed else "") + text


def _decimals(magnitude: float) -> int:
    exponent = math.floor(math.log10(magnitude))
    return max(0, 3 - exponent) if exponent >= 0 else max(3, 1 - exponent)


def interval(bounds: tuple[float | None, float | None]) -> str:
    """Write an interval, signed: `+0.12 to +0.34`."""
    low, high = bounds
    if low is None or high is None:
        return NONE
    return f"{number(low, signed=True)} to {number(high, signed=True)}"


def share(value: float, *, signed: bool = False) -> str:
    """Write a share as a percentage."""
    text = f"{abs(value):.1%}"
    if text == "0.0%":
        return text
    return (MINUS if value < 0 else "+" if signed else "") + text


def probability(value: float | None) -> str:
    """Write a p-value: `0.012`, `< 0.001`."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """Write a count with separators: `12,345`."""
    return NONE if value is None else f"{value:,.0f}"


def many(value: int) -> str:
    """Write a large count in short: `134.5 M`."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (10_000, "k")):
        if value >= size:
            return f"{value / (1000 if unit == 'k' else size):.4g} {unit}"
    return f"{value:,}"


def size(value: int | None) -> str:
    """Write a number of bytes: `1.42 GiB`."""
    if value is None:
        return NONE
    if value >= 2**30:
        return f"{value / 2**30:.2f} GiB"
    return f"{value / 2**20:.0f} MiB"


def rate(value: float | None, unit: str) -> str:
    """Write a rate in thousands of thousands: `105.2 GFLOP/s`, `12.30 GB/s`."""
    if value is None or not math.isfinite(value):
        return NONE
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{number(value / size)} {prefix}{unit}"
    return f"{number(value)} {unit}"


def duration(seconds: float) -> str:
    """Write a time: `8.3 s`, `2 min 5 s`, `3 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def capital(text: str) -> str:
    """Let a sentence begin with a capital, but where its first word is spelt as nDCG or chrF is.

    What begins with `task/metric` begins as its user calls the task.
    """
    own = any(letter.isupper() or letter == "/" for letter in text.partition(" ")[0][1:])
    return text if own else text[:1].upper() + text[1:]


def with_code(text: str) -> Markup:
    """Return a sentence for a page: escaped, and what stands in backticks set as code.

    >>> str(with_code("`a<b` of <it>"))
    '<code>a&lt;b</code> of &lt;it&gt;'
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def label(name: str) -> str:
    """Write the name of a metric or a member as words: `log_likelihood` is `log likelihood`.

    Of `task/metric` the task stays as its user calls it.
    """
    task, between, own = name.rpartition("/")
    return task + between + _SPELT.get(own, own.replace("_", " "))
