"""The parts of a model in words, as the terminal and the picture show them.

In: what `models.anatomy.description` found. Out: short texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.evidence.figures import many, size
from tunesmith.models.anatomy.blocks import Attention, FeedForward
from tunesmith.models.anatomy.description import Description, LayerKind, Part, Stack
from tunesmith.models.anatomy.positions import Positions


def header_words(found: Description) -> list[str]:
    """Return the lines that say what the whole is."""
    family = f"{found.architecture}, family {found.family} ({found.kind})"
    figures = f"{many(found.parameters)} parameters, {size(found.bytes)} as {found.dtype}"
    sizes = []
    if found.hidden_size:
        sizes.append(f"hidden size {found.hidden_size:,}")
    if found.vocab_size:
        sizes.append(f"vocabulary {found.vocab_size:,}")
        context = found.context_length
        sizes.append(f"context {context:,} tokens" if context else "context without limit")
        sizes.append(f"positions {position_words(found.positions)}")
    return [family, figures, *([", ".join(sizes)] if sizes else [])]


def position_words(found: Positions) -> str:
    """Say how order is known, as `rotary (base 10,000, linear × 2)`."""
    details = []
    if found.theta:
        details.append(f"base {found.theta:,.0f}")
    if found.scaling:
        details.append(found.scaling + (f" × {found.factor:g}" if found.factor else ""))
    return found.kind + (f" ({', '.join(details)})" if details else "")


def part_words(part: Part) -> str:
    """Say the sizes of a part's matrix."""
    return " × ".join(f"{length:,}" for length in part.shape)


def layer_words(kind: LayerKind, stack: Stack) -> str:
    """Say which layers of a stack these are."""
    noun = "stage" if stack.role == "stages" else "layer"
    count = len(kind.indices)
    named = f"{count} {noun}{'' if count == 1 else 's'}"
    return named if count == stack.depth else f"{named} ({ranges(kind.indices)})"


def attention_words(found: Attention) -> str:
    """Say how a layer attends."""
    words = []
    if found.heads:
        counted = f"{found.heads} heads"
        if found.key_value_heads and found.key_value_heads != found.heads:
            counted += f", {found.key_value_heads} for keys and values"
        words.append(counted)
    if found.head_size:
        words.append(f"size {found.head_size}")
    words.append(found.variant)
    if found.fused:
        words.append("one projection")
    if found.bias:
        words.append("biases")
    if found.normed:
        words.append("q/k norms")
    if found.window:
        words.append(f"window {found.window:,}")
    return ", ".join(words)


def feed_forward_words(found: FeedForward) -> str:
    """Say how wide a feed-forward part is."""
    words = [f"inner size {found.size:,}"] if found.size else []
    if found.activation:
        words.append(found.activation)
    if found.gated:
        words.append("gated")
    if found.experts:
        chosen = f", {found.experts_per_token} for each token" if found.experts_per_token else ""
        words.append(f"{found.experts} experts{chosen}")
    return ", ".join(words)


def norm_words(kind: LayerKind) -> str:
    """Say which norms a layer has."""
    return ", ".join(f"{count} {name}" for name, count in kind.norms.items())


def ranges(numbers: Sequence[int]) -> str:
    """Return `0-4, 6` for 0, 1, 2, 3, 4, 6."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)
