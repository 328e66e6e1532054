"""Several heads on one body: what several tasks that learn at once learn on.

    first (body, head) ─┐
    another (body, head) ┴─share_body─> another's head on the first's body

Each member is a model as any other, loaded with its own head and prepared by the same technique;
then it is set on the layers of the first, adapters included, and its own are dropped. A pooler, and
whatever else stands between the body and a head, stays the member's own. So each member can be
saved alone, in the format that its ecosystem loads. It knows no task.
"""

from __future__ import annotations

from tunesmith.errors import ModelError
from tunesmith.models.model import Model


def share_body(first: Model, other: Model) -> None:
    """Set `other` on the body of `first`; what `other` had of its own is let go.

    Raises:
        ModelError: the two bodies are not made of the same parts.
    """
    if other is first:
        return
    ours, theirs = first.body, other.body
    own = {_beneath(other, name) for name in (other.anatomy.pooler, *other.anatomy.head) if name}
    parts = {name: part for name, part in ours.named_children() if name not in own}
    lacking = {name for name, _ in theirs.named_children()} - own - set(parts)
    if lacking:
        raise ModelError(
            f"With another head the body of this {first.anatomy.family} model has other parts"
            f" ({min(lacking)}), so that it cannot be shared.",
            where=first.source.name,
            fix="Choose tasks of one kind, or a model of another family.",
        )
    for name, part in parts.items():
        if name in dict(theirs.named_children()):
            theirs.add_module(name, part)
    for name, parameter in ours.named_parameters(recurse=False):
        theirs.register_parameter(name, parameter)


def _beneath(model: Model, name: str) -> str:
    """Return the name of a part as seen from the body."""
    prefix = f"{model.anatomy.body}." if model.anatomy.body else ""
    return name.removeprefix(prefix)
