"""Made-up work for `verbs.py`: what each step learns from, the same for every side.

    preferences   a prompt with a better and a worse answer: the loss of DPO (arXiv:2305.18290)
    rollouts      prompts with a group of answers each, and their advantages: a policy gradient
    t5, marian    sources and targets of an encoder-decoder of that shape, random weights

Token ids are drawn at random, lengths evenly between bounds: speed depends on nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

PROMPT, ANSWER, SOURCE, TARGET = (60, 200), (20, 100), (10, 120), (10, 100)
KINDS = ("preferences", "rollouts", "t5", "marian")
ON_PAIRS = ("t5", "marian")
_LOWEST = 20
"""Ids below may mean something to a model."""


@dataclass(frozen=True)
class Text:
    """A prompt with an answer (or a source with its target), and what the answer is worth."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    advantage: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Work:
    """What a step is made of.

    Attributes:
        groups: of texts; those of one group have their prompt in common.
        size: texts of a group.
    """

    kind: str
    groups: int
    size: int
    vocabulary: int

    def step(self, seed: int) -> list[list[Text]]:
        """Return the groups of one step."""
        draw = random.Random(seed)
        return [list(self._group(draw)) for _ in range(self.groups)]

    def _group(self, draw: random.Random) -> Iterator[Text]:
        pairs = self.kind in ON_PAIRS
        prompt = self._ids(draw, SOURCE if pairs else PROMPT)
        for _ in range(self.size):
            advantage = draw.choice((-1.0, 1.0)) if self.kind == "rollouts" else 1.0
            yield Text(prompt, self._ids(draw, TARGET if pairs else ANSWER), advantage)

    def _ids(self, draw: random.Random, bounds: tuple[int, int]) -> tuple[int, ...]:
        return tuple(draw.randrange(_LOWEST, self.vocabulary) for _ in range(draw.randint(*bounds)))


WORK = {
    "preferences": Work("preferences", 8, 2, 49_000),
    "rollouts": Work("rollouts", 4, 8, 49_000),
    "t5": Work("t5", 32, 1, 32_000),
    "marian": Work("marian", 32, 1, 32_000),
}


def flat(groups: list[list[Text]]) -> list[Text]:
    """Return the texts of all groups."""
    return list(chain.from_iterable(groups))


def configuration(kind: str) -> object:
    """Return the configuration of an encoder-decoder of the shape of T5-small or OPUS-MT."""
    from transformers import MarianConfig, T5Config

    if kind == "t5":
        return T5Config(dropout_rate=0.0, vocab_size=32_128, decoder_start_token_id=0)
    return MarianConfig(
        vocab_size=32_128, d_model=512, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048,
        decoder_ffn_dim=2048, encoder_attention_heads=8, decoder_attention_heads=8,
        max_position_embeddings=512, dropout=0.0, attention_dropout=0.0,
        activation_function="swish",
        pad_token_id=0, decoder_start_token_id=0, eos_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
