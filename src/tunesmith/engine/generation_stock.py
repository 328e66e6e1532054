"""Generation by transformers' own `generate`: of encoder-decoders, and wherever beams are pursued.

    prompts, longest first ──groups, padded──> generate ──> ids of each, without start and stop

An encoder-decoder reads its prompt and writes apart from it, from the token that its decoder starts
with; its own settings (a forced first token, a least length) hold but for what `Sampling` says, as
they hold for whoever loads it. A decoder's own settings do not: it continues its prompt just as
without beams. The likeliest of the beams is taken (Sutskever et al., 2014, arXiv:1409.3215). It
knows token ids only.

Shapes: N texts at a time, L longest prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tunesmith.engine.generation import TOGETHER, Generated
from tunesmith.engine.sampling import Sampling
from tunesmith.models.model import Model
from tunesmith.models.quiet import quiet
from tunesmith.models.seeded import seeded

STOCK = "in groups, padded, by transformers' own generation"


class StockGenerator:
    """Continues texts with transformers' `generate`.

    Args:
        model: in evaluation mode whenever it is called, and within `torch.no_grad`.
    """

    form = STOCK

    def __init__(self, model: Model) -> None:
        self._model = model
        self._module: Any = model.module
        self._pairs = model.anatomy.encoder is not None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        together: int = TOGETHER,
        ended: Callable[[], object] = lambda: None,
    ) -> list[Generated]:
        """Continue each prompt; results come in order, and without log-probabilities.

        Args:
            together: texts at a time.
            ended: called whenever a text has ended.
        """
        found = [Generated() for _ in prompts]
        if sampling.max_new_tokens == 0:
            return found
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), list(prompts[i])))
        for start in range(0, len(order), together):
            chosen = order[start : start + together]
            made = self._group([prompts[i] for i in chosen], sampling)
            for index, ids in zip(chosen, made, strict=True):
                found[index] = self._ended(ids, sampling)
                ended()
        return found

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Yield the ids of one continuation, once all of it is made."""
        [made] = self.generate([prompt], sampling)
        yield from made.ids

    def _group(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """Return what is written after each prompt, padding and stops included."""
        longest = max(map(len, prompts))
        lacking = [longest - len(prompt) for prompt in prompts]
        if self._pairs:
            ids = [[*p, *[0] * n] for p, n in zip(prompts, lacking, strict=True)]
            real = [[1] * len(p) + [0] * n for p, n in zip(prompts, lacking, strict=True)]
        else:
            ids = [[*[0] * n, *p] for p, n in zip(prompts, lacking, strict=True)]
            real = [[0] * n + [1] * len(p) for p, n in zip(prompts, lacking, strict=True)]
        device = next(self._module.parameters()).device
        with quiet(), seeded(sampling.seed):
            made_NL = self._module.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(real, device=device),
                generation_config=self._settings(sampling),
            )
        first = 1 if self._pairs else longest  # the token that the decoder starts with, the prompt
        written: list[list[int]] = made_NL[:, first:].tolist()
        return written

    def _settings(self, sampling: Sampling) -> Any:
        from transformers import GenerationConfig

        settings = copy.deepcopy(self._module.generation_config)
        if not self._pairs:
            settings = GenerationConfig(bos_token_id=settings.bos_token_id)
        draws = sampling.temperature > 0
        padding = self._model.tokenizer.pad_token_id
        settings.update(
            num_beams=sampling.beams,
            max_new_tokens=sampling.max_new_tokens,
            max_length=None,
            eos_token_id=list(sampling.stop_ids) or None,
            pad_token_id=padding if padding is not None else (*sampling.stop_ids, 0)[0],
            do_sample=draws,
            temperature=sampling.temperature if draws else None,
            top_p=sampling.top_p if draws else None,
            top_k=sampling.top_k if draws else None,
            use_cache=True,
            return_dict_in_generate=False,
        )
        return settings

    def _ended(self, ids: Sequence[int], sampling: Sampling) -> Generated:
        """Cut at the first stop; one that is forced at the very end is none of the model's own."""
        place = next((i for i, token in enumerate(ids) if token in sampling.stop_ids), None)
        if place is None:
            return Generated(list(ids[: sampling.max_new_tokens]))
        forced = self._pairs and self._module.generation_config.forced_eos_token_id is not None
        stopped = not (forced and place == sampling.max_new_tokens - 1)
        return Generated(list(ids[:place]), stopped=stopped)
