"""Records that say what looks like a control token: counted, so that nobody is surprised in use.

    (where a record stands, the look-alikes in it) ──lookalike_sentence──> a sentence, or None

Here such texts are plain text, in training and in use (`data/lookalikes.py`). A server that renders
a template and then parses all of it reads control tokens there: its users can forge turns, and what
was learnt of such records is not what it asks. Which texts these are, a task says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

_SHOWN = 3


def lookalike_sentence(found: Sequence[tuple[str, Collection[str]]], records: str) -> str | None:
    """Return how many records say such a thing, and where the first do; None if none does.

    Args:
        found: of every record, where it stands, and its look-alikes.
        records: what these are, such as `train records`.
    """
    saying = [(origin, min(texts)) for origin, texts in found if texts]
    if not saying:
        return None
    shown = ", ".join(f"`{text}` in {origin}" for origin, text in saying[:_SHOWN])
    more = ", ..." if len(saying) > _SHOWN else ""
    return (
        f"{len(saying)} of {len(found)} {records} say the text of a control token ({shown}"
        f"{more}). It is learnt, measured and answered as plain text here; other servers may take"
        " it for the token itself."
    )
