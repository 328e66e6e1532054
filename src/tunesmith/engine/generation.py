"""Generation: tokens, one after another, with the log-probability that each was given.

A batch of prompts of any lengths, padded on the left, over transformers' key-value cache. Greedy
at temperature 0, else nucleus sampling (Holtzman et al. 2020) with a generator of its own. It knows
token ids only: no text, no template; stop tokens are given.

Shapes: B prompts, L longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from tunesmith.engine.readout import logits
from tunesmith.kernels.token_loss import LogitShape
from tunesmith.models.model import Model

_BATCH = 16


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token.

    Attributes:
        max_new_tokens: the most tokens to generate.
        stop_ids: tokens that end an answer.
        temperature: 0 takes the most likely token; else logits are divided by it.
        top_p: sample from the smallest set of tokens that holds this much probability.
        seed: of the generator that draws.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Generated:
    """One continuation: its ids without the stop token, the log-probability of each id and of the
    stop token, and whether it ended by itself."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


def generate(
    model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling, shape: LogitShape
) -> list[Generated]:
    """Continue each prompt; results come in the order of the prompts.

    Prompts go through in batches of similar length, so that little padding is computed.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    results = [Generated() for _ in prompts]
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        batch = [results[i] for i in chosen]
        for tokens_B, logprobs_B in _decode(model, [prompts[i] for i in chosen], sampling, shape):
            _append(batch, tokens_B, logprobs_B, sampling)
            if all(result.stopped for result in batch):
                break
    return results


def stream(
    model: Model, prompt: Sequence[int], sampling: Sampling, shape: LogitShape
) -> Iterator[int]:
    """Yield the ids of one continuation as they are made, without the stop token."""
    for tokens_B, _ in _decode(model, [prompt], sampling, shape):
        if tokens_B[0] in sampling.stop_ids:
            return
        yield tokens_B[0]


def _append(
    batch: Sequence[Generated], tokens: list[int], logprobs: list[float], sampling: Sampling
) -> None:
    for result, token, logprob in zip(batch, tokens, logprobs, strict=True):
        if result.stopped:
            continue
        result.logprobs.append(logprob)
        if token in sampling.stop_ids:
            result.stopped = True
        else:
            result.ids.append(token)


def _decode(
    model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling, shape: LogitShape
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield (token, log-probability) of each prompt, step by step; never ends a row by itself."""
    device = model.output_weight_VD.device
    generator = torch.Generator(device).manual_seed(sampling.seed)
    ids_BL, mask_BL = _pad_left(prompts, device)
    positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.module.config)
    for _ in range(sampling.max_new_tokens):
        hidden_BLD = model.body(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=positions_BL,
            past_key_values=cache,
            use_cache=True,
        )[0]
        scores_BV = torch.log_softmax(logits(model, hidden_BLD[:, -1], shape).float(), dim=-1)
        next_B = _choose(scores_BV, sampling, generator)
        yield next_B.tolist(), scores_BV.gather(1, next_B[:, None])[:, 0].tolist()
        ids_BL = next_B[:, None]
        mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(prompts), 1)], dim=1)
        positions_BL = positions_BL[:, -1:] + 1


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def _choose(scores_BV: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    if sampling.temperature == 0:
        return scores_BV.argmax(-1)
    sorted_BV, ids_BV = torch.softmax(scores_BV / sampling.temperature, -1).sort(descending=True)
    outside_BV = sorted_BV.cumsum(-1) - sorted_BV >= sampling.top_p
    kept_BV = sorted_BV.masked_fill(outside_BV, 0.0)
    drawn_B1 = torch.multinomial(kept_BV, 1, generator=generator)
    return ids_BV.gather(1, drawn_B1)[:, 0]
