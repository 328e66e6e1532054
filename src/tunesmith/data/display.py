"""Shows an encoded text as the model will see it, parted by what is learnt.

Ids and weights go in, texts come out; colours are the terminal's concern.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from tunesmith.data.batch import EncodedStream


def pieces(tokenizer: Any, stream: EncodedStream) -> list[tuple[str, bool]]:
    """Return the text in pieces, each with whether its tokens are learnt.

    A character whose bytes are parted between two pieces shows as a replacement character.
    """
    runs = groupby(zip(stream.ids, stream.learnt(), strict=True), key=lambda pair: pair[1])
    return [
        (tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False), learnt)
        for learnt, run in runs
    ]
