"""Generation: tokens, one after another, with the log-probability that each was given.

    prompts, longest first ──> slots ──> one more token of every text ──> those that end leave,
                                 ^                                        the next ones enter
                                 └────────────────────────────────────────┘

Texts of any lengths go through together, without padding: keys and values are kept in slots
(`generation_cache.py`), and a slot that becomes free takes the next text, so that short answers do
not wait for long ones. What prompts begin with in common is computed once. Bodies of Llama's form
in float32 on a processor go step by step as one compiled call (`generation_native.py`). Where an
architecture does not call the attention that it is given, texts go in groups of similar length,
padded on the left, over transformers' own cache. Which form gives what the stock model gives is
found by running it on made-up text; `form` says it.

It knows token ids only: no text, no template; stop tokens are given.

Shapes: N texts at a time, L longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache

from tunesmith.engine.generation_cache import Cache, Call, NotKeepableError, Opening, Step, running
from tunesmith.engine.generation_native import Copies, NativeBody
from tunesmith.engine.packing import Layout
from tunesmith.engine.readout import logits
from tunesmith.engine.sampling import Sampling, choose
from tunesmith.kernels.token_loss import LogitShape
from tunesmith.models.model import Model

__all__ = ["COMPILED", "CONTINUOUS", "PADDED", "TOGETHER", "Generated", "Generator", "Sampling"]

TOGETHER = 16
"""Texts at a time."""

COMPILED = "continuous, compiled layers"
CONTINUOUS = "continuous, stock layers"
PADDED = "in groups, padded, over transformers' cache"

_OPENED = 4096
"""Tokens of prompts that one call of the body takes; a longer prompt goes alone."""

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""By which the logits of a form may differ from the stock model's; in 16 bits a twentieth."""


@dataclass
class Generated:
    """One continuation: its ids without the stop token, the log-probability of each id and of the
    stop token (none where transformers generates), and whether it ended by itself."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


@dataclass
class _Text:
    """A prompt and what has been said since."""

    number: int
    prompt: list[int]
    made: Generated = field(default_factory=Generated)
    ended: bool = False

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.made.ids

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.made.ids)

    def take(self, token: int, logprob: float, sampling: Sampling) -> None:
        self.made.logprobs.append(logprob)
        if token in sampling.stop_ids:
            self.made.stopped = self.ended = True
            return
        self.made.ids.append(token)
        self.ended = len(self.made.ids) == sampling.max_new_tokens


class Generator:
    """Continues texts, with the weights and adapters as they are at that moment.

    Args:
        model: in evaluation mode whenever it is called, and within `torch.no_grad`.
        layout: how its body is called.
        shape: how its logits are made.
        keep: keep keys and values in slots where the body allows it; False always pads.
        fuse: use the compiled layers where they give what the stock ones give.
    """

    def __init__(
        self, model: Model, layout: Layout, shape: LogitShape, *, keep: bool, fuse: bool
    ) -> None:
        self._model, self._layout, self._shape = model, layout, shape
        self._keep, self._fuse = keep and layout.can_pack, fuse
        self._copies = Copies()
        self._device = next(model.module.parameters()).device

    @cached_property
    def form(self) -> str:
        """How texts go through this body; tried out when first asked."""
        if not self._keep:
            return PADDED
        texts = self._made_up()
        stock_N4V = torch.stack([self._stock(text) for text in texts])
        if self._fuse and self._is_right(texts, stock_N4V, compiled=True):
            return COMPILED
        return CONTINUOUS if self._is_right(texts, stock_N4V, compiled=False) else PADDED

    def forget(self) -> None:
        """Let go of what is kept between calls: copies of weights."""
        self._copies.clear()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        together: int = TOGETHER,
        ended: Callable[[], object] = lambda: None,
    ) -> list[Generated]:
        """Continue each prompt; results come in the order of the prompts.

        Args:
            together: texts at a time.
            ended: called whenever a text has ended.
        """
        texts = [_Text(number, list(prompt)) for number, prompt in enumerate(prompts)]
        for text in self._grown(texts, sampling, together):
            if text.ended:
                ended()
        return [text.made for text in texts]

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Yield the ids of one continuation as they are made, without the stop token."""
        for text in self._grown([_Text(0, list(prompt))], sampling, 1):
            if not text.made.stopped:
                yield text.made.ids[-1]

    def _grown(self, texts: Sequence[_Text], sampling: Sampling, together: int) -> Iterator[_Text]:
        """Yield a text whenever it has got a token, or has ended with one."""
        if not texts or sampling.max_new_tokens == 0:
            return
        ordered = sorted(texts, key=lambda text: (-len(text.prompt), text.prompt))
        if self.form != PADDED:
            yield from self._continuous(ordered, sampling, together)
            return
        for start in range(0, len(ordered), together):
            yield from self._padded(ordered[start : start + together], sampling)

    def _continuous(
        self, ordered: Sequence[_Text], sampling: Sampling, together: int
    ) -> Iterator[_Text]:
        longest = len(ordered[0].prompt) + sampling.max_new_tokens
        cache = Cache(min(together, len(ordered)), longest)
        waiting, active = deque(ordered), list[_Text]()
        compiled: NativeBody | None = None
        while waiting or active:
            entering = _entering(waiting, cache.slots - len(active))
            if entering:
                held = [text.ids[:-1] for text in active]  # the last token's key is not there yet
                prompts = [text.prompt for text in entering]
                logits_NV = self._run(Opening(cache, held, prompts, self._device))
                active += entering
                if compiled is None and self.form == COMPILED:
                    compiled = self._compiled(cache)
            else:
                entering = active
                ids, positions = [t.ids[-1] for t in active], [t.length - 1 for t in active]
                step = Step(cache, ids, positions, self._device)
                logits_NV = compiled.run(step) if compiled else self._run(step)
            self._take(entering, logits_NV, sampling)
            yield from list(entering)
            _leave(active, cache)

    def _run(self, call: Call) -> Tensor:
        """Return the logits of the last token of each text, `[N, V]`."""
        with running(self._model.module, call):
            arguments = self._layout.arguments(call.positions_T[None])
            hidden_TD: Tensor = self._model.body(input_ids=call.ids_T[None], **arguments)[0][0]
        return logits(self._model, hidden_TD[call.last_N], self._shape)

    def _compiled(self, cache: Cache) -> NativeBody | None:
        return NativeBody.of(self._model, self._shape, cache, self._copies)

    def _padded(self, texts: Sequence[_Text], sampling: Sampling) -> Iterator[_Text]:
        ids_NL, mask_NL = _pad_left([text.prompt for text in texts], self._device)
        positions_NL = (mask_NL.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.module.config)
        while not all(text.ended for text in texts):
            hidden_NLD = self._model.body(
                input_ids=ids_NL,
                attention_mask=mask_NL,
                position_ids=positions_NL,
                past_key_values=cache,
                use_cache=True,
            )[0]
            unfinished = [text for text in texts if not text.ended]
            rows = [row for row, text in enumerate(texts) if not text.ended]
            self._take(unfinished, logits(self._model, hidden_NLD[rows, -1], self._shape), sampling)
            yield from unfinished
            ids_NL = torch.tensor([[text.ids[-1]] for text in texts], device=self._device)
            mask_NL = torch.cat([mask_NL, mask_NL.new_ones(len(texts), 1)], dim=1)
            positions_NL = positions_NL[:, -1:] + 1

    def _take(self, texts: Sequence[_Text], logits_NV: Tensor, sampling: Sampling) -> None:
        draws = [(text.number, len(text.made.ids)) for text in texts]
        chosen = zip(texts, *choose(logits_NV, sampling, draws), strict=True)
        for text, token, logprob in chosen:
            text.take(token, logprob, sampling)

    def _is_right(self, texts: list[list[int]], stock_N4V: Tensor, *, compiled: bool) -> bool:
        """Whether texts with kept keys get the logits of the stock model at their last places."""
        cache = Cache(len(texts), max(map(len, texts)))
        try:
            opened = Opening(cache, [], [text[:-3] for text in texts], self._device)
            found = [self._run(opened)]
            body = self._compiled(cache) if compiled else None
            if compiled and body is None:
                return False
            for back in (3, 2, 1):
                ids, positions = [t[-back] for t in texts], [len(t) - back for t in texts]
                step = Step(cache, ids, positions, self._device)
                found.append(body.run(step) if body else self._run(step))
        except NotKeepableError:
            return False
        difference = (torch.stack(found, 1) - stock_N4V).float().norm()
        tolerance = _TOLERANCE.get(stock_N4V.dtype, 5e-2)
        return bool(difference <= tolerance * stock_N4V.float().norm())

    def _made_up(self) -> list[list[int]]:
        """Two texts of other lengths with a common beginning."""
        low, high = min(10, self._model.anatomy.vocab_size // 2), self._model.anatomy.vocab_size
        drawn = torch.Generator().manual_seed(3)
        one, other = torch.randint(low, high, (2, 12), generator=drawn).tolist()
        return [one, one[:5] + other[:6]]

    def _stock(self, ids: Sequence[int]) -> Tensor:
        """The stock model's logits at the last four places of a text."""
        logits_4V: Tensor = self._model.module(input_ids=self._row(ids)).logits[0, -4:]
        return logits_4V

    def _row(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self._device)


def _entering(waiting: deque[_Text], free: int) -> list[_Text]:
    """Take as many texts as there are free slots and one call of the body should read."""
    taken: list[_Text] = []
    tokens = 0
    while waiting and len(taken) < free:
        tokens += len(waiting[0].prompt)
        if taken and tokens > _OPENED:
            break
        taken.append(waiting.popleft())
    return taken


def _leave(active: list[_Text], cache: Cache) -> None:
    """Let texts that ended go; the last one takes a place that became free, so none lies empty."""
    for slot in reversed(range(len(active))):
        if active[slot].ended:
            last = active.pop()
            if slot < len(active):
                cache.move(len(active), slot, last.length - 1)
                active[slot] = last


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)
