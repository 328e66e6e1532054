"""A model as a picture: one SVG file that opens anywhere, light and dark, with real text in it.

    Description ──picture──> SVG text

From top to bottom the way of a token: embedding, layers (a frame for each kind of layer, with what
a layer holds), last norm, output. To the right of each part how large it is, the bar being its
share of all parameters. Query heads are drawn as squares; those of one shade share a key and value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from textwrap import shorten

from tunesmith.evidence.figures import many, size
from tunesmith.evidence.parts import (
    attention_words,
    feed_forward_words,
    header_words,
    layer_words,
    norm_words,
    part_words,
)
from tunesmith.models.anatomy.description import Description, LayerKind, Part, Stack

_WIDTH, _BOX, _BAR = 960, 560, 150
_LEFT, _ROW, _GAP, _INDENT = 32, 50, 10, 18
_HEADS_SHOWN = 48
_LONGEST = 84
"""Letters that fit into a box."""

_STYLE = """
  svg { --back: #ffffff; --ink: #1d2433; --soft: #5b6475; --line: #c9d0dc; --frame: #f4f6fa;
        --embedding: #dfe9fb; --attention: #fde8d3; --forward: #e0f2e3; --norm: #eceef3;
        --output: #eadffb; --bar: #4a78c8; --one: #d9772b; --two: #f0b27a; }
  @media (prefers-color-scheme: dark) {
    svg { --back: #14181f; --ink: #e8ecf4; --soft: #a3adbd; --line: #3d4656; --frame: #1b212b;
          --embedding: #22375c; --attention: #573517; --forward: #1f4429; --norm: #2b323e;
          --output: #40305f; --bar: #7aa2e8; --one: #f0953f; --two: #a8652a; }
  }
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
  .title { font-size: 20px; font-weight: 600; } .soft { font-size: 12px; fill: var(--soft); }
  .strong { font-weight: 600; } .end { text-anchor: end; }
"""

_FILL = {"embedding": "embedding", "positions": "embedding", "output": "output", "head": "output",
         "pooler": "output"}  # fmt: skip


@dataclass
class _Sheet:
    """Elements of the drawing so far, and how far down it goes."""

    total: int
    y: float = 0.0

    def __post_init__(self) -> None:
        self.elements: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """Draw a box in one of the sheet's colours."""
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" '
            f'fill="var(--{fill})" stroke="var(--line)"/>'
        )

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Write words; `kind` is a class of the style sheet."""
        marked = f' class="{kind}"' if kind else ""
        self.elements.append(f'<text x="{x:g}" y="{y:g}"{marked}>{escape(words)}</text>')

    def row(
        self, name: str, words: str, parameters: int, fill: str, indent: int, heads: str = ""
    ) -> None:
        """Draw a part: its name and what it is in a box, its size to the right."""
        x, width = _LEFT + indent, _BOX - 2 * indent
        self.rect(x, self.y, width, _ROW, fill)
        self.text(x + 14, self.y + (21 if words else 30), name, "strong")
        if words:
            self.text(x + 14, self.y + 39, shorten(words, _LONGEST, placeholder=" …"), "soft")
        self.elements.append(heads)
        if parameters:
            self.size(self.y + 30, parameters)
        self.y += _ROW + _GAP

    def size(self, y: float, parameters: int) -> None:
        """Draw how many parameters, and the share of the whole as a bar."""
        share = parameters / self.total
        x = _LEFT + _BOX + 24
        width = max(1.5, _BAR * share)
        self.elements.append(
            f'<rect x="{x:g}" y="{y - 11:g}" width="{width:g}" height="12" rx="2" '
            'fill="var(--bar)"/>'
        )
        self.text(x + _BAR + 12, y, many(parameters))
        self.text(_WIDTH - 24, y, f"{share:.1%}", "soft end")


def picture(found: Description, name: str) -> str:
    """Return the model as SVG.

    Args:
        name: of the model, for the title.
    """
    sheet = _Sheet(found.parameters)
    sheet.text(_LEFT, 42, name, "title")
    for number, words in enumerate(header_words(found)):
        sheet.text(_LEFT, 64 + 18 * number, words, "soft")
    sheet.y = 64 + 18 * len(header_words(found)) + 8
    before = [part for part in found.parts if part.role in ("embedding", "positions")]
    for part in before:
        _draw_part(sheet, part)
    for stack in found.stacks:
        _draw_stack(sheet, stack)
    for part in found.parts:
        if part not in before:
            _draw_part(sheet, part)
    if found.tied and found.output:
        sheet.row("output", f"{found.output}: the embedding's own weights (tied)", 0, "output", 0)
    height = sheet.y + 20
    said = f"{name}: {'; '.join(header_words(found))}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" '
            f'width="{_WIDTH}" height="{height:g}" role="img" aria-label="{escape(said)}">',
            f"<title>{escape(said)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{_WIDTH}" height="{height:g}" fill="var(--back)"/>',
            *filter(None, sheet.elements),
            "</svg>",
            "",
        ]
    )


def _draw_part(sheet: _Sheet, part: Part) -> None:
    sheet.row(
        part.role, f"{part.name}  {part_words(part)}", part.parameters,
        _FILL.get(part.role, "norm"), 0,
    )  # fmt: skip


def _draw_stack(sheet: _Sheet, stack: Stack) -> None:
    for kind in stack.kinds:
        rows = list(_rows(kind))
        height = 46 + len(rows) * (_ROW + _GAP) + 4
        top = sheet.y
        sheet.rect(_LEFT, top, _BOX, height, "frame")
        sheet.text(_LEFT + 14, top + 20, f"{stack.role}: {layer_words(kind, stack)}", "strong")
        each = f"{many(kind.parameters)} parameters, {size(kind.bytes)} each; sizes are of all"
        sheet.text(_LEFT + 14, top + 37, each, "soft")
        sheet.y = top + 46
        for name, words, parameters, fill, heads in rows:
            drawn = _heads(kind, sheet.y) if heads else ""
            sheet.row(name, words, parameters * len(kind.indices), fill, _INDENT, drawn)
        sheet.y = top + height + _GAP


def _rows(kind: LayerKind) -> Iterator[tuple[str, str, int, str, bool]]:
    """Name, words, parameters of one layer, colour, and whether heads are drawn."""
    for number, attention in enumerate(kind.attention):
        name = "attention" if attention.role == "self" else "cross-attention"
        counted = kind.attention_parameters // len(kind.attention)
        yield name, attention_words(attention), counted, "attention", number == 0
    if kind.feed_forward is not None:
        words = feed_forward_words(kind.feed_forward)
        yield "feed-forward", words, kind.feed_forward_parameters, "forward", False
    elif not kind.attention:
        yield "convolutions or others", "", kind.feed_forward_parameters, "forward", False
    if kind.norms:
        yield "norms", norm_words(kind), kind.norm_parameters, "norm", False


def _heads(kind: LayerKind, y: float) -> str:
    """Squares for the query heads; neighbours that share a key and value have one shade."""
    attention = kind.attention[0]
    heads, shared = attention.heads or 0, attention.key_value_heads or 0
    if not 0 < heads <= _HEADS_SHOWN or not shared:
        return ""
    per_row = heads if heads <= 16 else -(-heads // (2 if heads <= 32 else 3))
    side = 8
    right = _LEFT + _BOX - _INDENT - 14
    squares = []
    for head in range(heads):
        row, column = divmod(head, per_row)
        x, down = right - (per_row - column) * (side + 2), y + 8 + row * (side + 2)
        shade = "one" if head * shared // heads % 2 == 0 else "two"
        squares.append(
            f'<rect x="{x:g}" y="{down:g}" width="{side}" height="{side}" rx="1.5" '
            f'fill="var(--{shade})"/>'
        )
    return "".join(squares)
