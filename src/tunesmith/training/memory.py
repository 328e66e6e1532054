"""How much memory this process holds, and how much a training step will need.

    Engine, largest micro-batch ──Memory──> MemoryEstimate, split by what it is for
                                 ──fit──> the fewest checkpointed layers that fit a budget

What a forward pass keeps is measured on a few made-up tokens and scaled: by the tokens and, where
a model keeps attention scores, by the squares of the lengths. All else is counted. A step has
several moments at which memory may peak (the loss, each layer's backward pass, the update); each is
added up, and the largest is the estimate.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import psutil
import torch

from tunesmith.data.batch import Batch, Encoded, EncodedStream, collate
from tunesmith.data.plan import Plan
from tunesmith.engine.checkpointing import Checkpointed, Held
from tunesmith.engine.engine import Engine
from tunesmith.kernels.biased import padded_lengths
from tunesmith.kernels.tensor_memory import bytes_idle
from tunesmith.kernels.token_loss import CHUNK_BYTES
from tunesmith.models.quantised import expanded_bytes, packed_bytes, stored_tensors
from tunesmith.models.seeded import seeded
from tunesmith.training.scaled import Scaled

_BETWEEN = {True: 0.03, False: 0.3}
"""Room that lies idle between blocks, as a share of what comes and goes in a step: where tensors
have memory of their own (`kernels/tensor_memory.py`), and in the C library's heap. Measured on
SmolLM2-135M's shape; a GPU's allocator is not counted here."""

_HEADROOM = 0.9
"""Share of what is free that `auto` takes: an estimate is not a promise."""


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds now (on a GPU: of its memory)."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Return the most memory that this process has held so far, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: torch.device) -> int:
    """Return what this process may hold on a device, what it holds already included."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device)
    own = int(psutil.Process().memory_info().rss)
    limits = [int(psutil.virtual_memory().available) + own]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # a container's own limit
        path = Path("/sys/fs/cgroup") / file
        if path.exists() and path.read_text().strip().isdigit():
            limits.append(int(path.read_text()))
    return int(_HEADROOM * min(limits))


@dataclass(frozen=True)
class MicroBatch:
    """The size of a micro-batch, as far as memory depends on it.

    Attributes:
        tokens: that are computed, padding included, a shared beginning once.
        squares: sum over its documents (or padded rows) of the squared length; with virtual
            tokens, of what asks times what is asked.
        targets: tokens that are learnt.
        alone: whether every step is one micro-batch, so that no gradients wait for it.
        member: whose it is, where several tasks learn at once.
        others: then the largest micro-batch of each other task.
    """

    tokens: int
    squares: int
    targets: int
    alone: bool = True
    member: str = ""
    others: tuple[MicroBatch, ...] = ()

    @classmethod
    def of(cls, batch: Batch, engine: Engine, alone: bool = True) -> MicroBatch:
        """Return the size of a batch, as this engine computes it."""
        streams = [batch.whole] if batch.source is None else list(batch.streams.values())
        lengths = [length for stream in streams for length in stream.lengths]
        if not engine.packed:
            lengths = [max(s.lengths) for s in streams for _ in s.lengths]
        elif engine.layout.pads_scores:
            lengths = [length for s in streams for length in padded_lengths(s.lengths)]
        weights = batch.text.weights_T
        targets = 0 if weights is None else int((weights != 0).sum())
        squares = sum(n * m for n, m in (_asking(length, engine) for length in lengths))
        return cls(engine.computed_rows(batch), squares, targets, alone, batch.member)


def _asking(length: int, engine: Engine) -> tuple[int, int]:
    """How many rows of a text, and of the virtual tokens before it, ask; and how many are asked."""
    virtual = engine.model.virtual
    return length + engine.virtual_rows, length + (virtual.tokens if virtual else 0)


@dataclass(frozen=True)
class MemoryEstimate:
    """Predicted bytes at the peak of a training step, by what they are for.

    Attributes:
        process: what the process holds besides the weights: Python, libraries, data (0 on a GPU).
        temporary: what lives only within one operation or one layer's backward pass, and, on a
            processor, room between blocks.
    """

    process: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return the parts by name."""
        return asdict(self)

    def split(self) -> str:
        """Return the parts as a sentence would list them."""
        return ", ".join(f"{name} {size / 1e9:.2g} GB" for name, size in self.parts().items())


class Memory:
    """Predicts the memory of an engine's training steps.

    Measuring takes three forward passes of a few dozen tokens, when the first estimate is asked
    for. Nothing of the engine is changed.

    Args:
        engine: with its technique prepared and nothing checkpointed.
        written: of an encoder-decoder, the share of its rows that are targets'.
    """

    def __init__(self, engine: Engine, written: float = 0.5) -> None:
        self.engine = engine
        self.written = written

    def estimate(self, batch: MicroBatch, checkpointed: Checkpointed) -> MemoryEstimate:
        """Predict the peak of a step whose largest micro-batch is `batch`."""
        sizes = (batch, *batch.others)
        moments = (moment for size in sizes for moment in self._moments(size, checkpointed))
        gradients, activations, temporary = max(moments, key=sum)
        if self.engine.device.type == "cpu":
            temporary += int(_BETWEEN[self.engine.memory.exact] * (activations + temporary))
            temporary += max(map(self._without_a_place, sizes))
        return MemoryEstimate(
            process=self._process,
            weights=self._weights,
            gradients=gradients,
            optimizer=self._optimizer,
            activations=activations,
            temporary=temporary,
        )

    def fit(self, batch: MicroBatch, budget: int) -> tuple[Checkpointed, MemoryEstimate]:
        """Return the cheapest choice whose estimate is at most `budget` bytes, and the estimate.

        Where none fits, the choice that needs least.
        """
        layers = len(self.engine.checkpoints.layers)
        choices = [Checkpointed(number) for number in range(layers + 1)]
        if self.engine.device.type == "cuda" and layers:
            choices.append(Checkpointed(layers, offload=True))
        found = [(choice, self.estimate(batch, choice)) for choice in choices]
        for choice, estimate in found:
            if estimate.total <= budget:
                return choice, estimate
        return min(found, key=lambda pair: pair[1].total)

    @property
    def learnt_bytes(self) -> int:
        """Bytes of the weights that learn."""
        return sum(parameter.nbytes for parameter in self._parameters)

    @cached_property
    def packed_bytes(self) -> int:
        """Bytes of the weights that are stored quantised, whatever the rest is stored in."""
        return packed_bytes(self.engine.model.module)

    @cached_property
    def _process(self) -> int:
        if self.engine.device.type == "cuda":
            return 0
        self._held  # noqa: B018 - a first pass brings in weights that lie on disk, and libraries
        # What lies idle in their range, the step's tensors will have.
        return max(0, resident_bytes() - bytes_idle() - self._weights)

    @cached_property
    def _weights(self) -> int:
        storages = {}
        streamed = self.engine.model.streamed
        for tensor in stored_tensors(self.engine.model.module):
            if streamed is not None and streamed.holds(tensor):
                continue
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values()) + (streamed.window_bytes if streamed is not None else 0)

    @cached_property
    def _optimizer(self) -> int:
        return self.engine.optimizer.state_bytes

    def _moments(
        self, batch: MicroBatch, checkpointed: Checkpointed
    ) -> Iterator[tuple[int, int, int]]:
        """Yield (gradients, activations, temporary) at each moment that may be the peak."""
        learnt = self._learnt
        whole = sum(learnt.layers) + learnt.output + learnt.embeddings
        waiting = 0 if batch.alone else whole
        kept = self._held.at(batch)
        checked = checkpointed.layers
        held = [
            (0 if checkpointed.offload else entry) if place < checked else inside
            for place, (inside, entry) in enumerate(zip(kept.inside, kept.inputs, strict=True))
        ]
        largest = max([0, *(p.numel() * p.element_size() for p in self._parameters)])
        yield waiting, kept.elsewhere + sum(held), self._loss(batch)
        # Of a shared weight the output layer's gradient waits for that of the embedding.
        tied = self.engine.model.of(batch.member).anatomy.tied
        shared = learnt.embeddings if tied and batch.targets else 0
        gradients = learnt.output + shared
        for place in reversed(range(len(held))):
            gradients += learnt.layers[place]
            again = kept.inside[place] if place < checked else 0
            alive = largest if self.engine.optimizer.options.in_backward else gradients
            below = kept.elsewhere + sum(held[: place + 1])
            inside = again + kept.inside[place] + self._working(batch)
            yield max(waiting + shared, alive), below, inside
        alive = largest if self.engine.optimizer.options.in_backward else whole
        yield max(waiting, alive), 0, max(learnt.embeddings, self._update)

    def _working(self, batch: MicroBatch) -> int:
        """Gradients of the hidden state that pass from layer to layer; a map that is expanded."""
        passing = 2 * 4 * batch.tokens * self.engine.model.anatomy.hidden_size
        return passing + self._expanded

    @cached_property
    def _expanded(self) -> int:
        return expanded_bytes(self.engine.model.module, self.engine.dtype)

    def _without_a_place(self, batch: MicroBatch) -> int:
        """The embedding's gradient, where what activations left free is in pieces too small for it.

        It comes last, when the gradients of the layers lie between those pieces.
        """
        learnt, options = self._learnt, self.engine.optimizer.options
        if options.in_backward or not sum(learnt.layers) or not self.engine.memory.exact:
            return 0
        largest = max(self._held.at(batch).inside, default=0)
        return learnt.embeddings if learnt.embeddings > largest else 0

    def _loss(self, batch: MicroBatch) -> int:
        """The logits of one chunk, the gradient of the hidden states, that of the output layer."""
        model = self.engine.model.of(batch.member)
        anatomy = model.anatomy
        hidden = batch.tokens * anatomy.hidden_size * 4
        if not batch.targets or anatomy.output is None:
            return hidden
        narrow = self.engine.dtype.itemsize
        chunk = min(batch.targets * 4 * anatomy.vocab_size, CHUNK_BYTES)
        copies = 1.0 if narrow == 4 else 1.5
        rows = 3 * batch.targets * anatomy.hidden_size * narrow
        weight = anatomy.vocab_size * anatomy.hidden_size * narrow
        output_VD = model.output_weight_VD
        learns = output_VD.requires_grad
        cast = weight if narrow == 2 and output_VD.dtype == torch.float32 else 0
        return (
            hidden + rows + cast + max(int(copies * chunk) + learns * weight, 2 * learns * weight)
        )

    @property
    def _update(self) -> int:
        """Copies of one piece, where the update is made in pieces."""
        options = self.engine.optimizer.options
        plain = options.kind == "adamw" and not options.stochastic_rounding
        return 0 if plain else 8 * 4 * 2**20

    @property
    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(self.engine.optimizer.parameters.values())

    @cached_property
    def _learnt(self) -> _Learnt:
        anatomy = self.engine.model.anatomy
        names = self.engine.checkpoints.layers
        layers = dict.fromkeys(names, 0)
        rest = embeddings = 0
        shares = self.engine.optimizer.at_once
        for name, parameter in self.engine.optimizer.parameters.items():
            size = int(parameter.numel() * parameter.element_size() * shares[name])
            place = next((layer for layer in names if name.startswith(f"{layer}.")), None)
            if place is not None:
                layers[place] += size
            elif name.startswith(f"{anatomy.embeddings}."):
                embeddings += size
            else:
                rest += size
        return _Learnt(tuple(layers.values()), rest, embeddings)

    @cached_property
    def _held(self) -> Scaled:
        virtual = self.engine.model.virtual
        wanted = max(32, virtual.tokens) if virtual else 32
        length = min(wanted, self.engine.model.anatomy.context_length // 4)
        shapes = [[length], [length, length], [2 * length]]
        return Scaled([self._measure(lengths) for lengths in shapes])

    def _parted(self, length: int) -> tuple[int, int]:
        """Part a pair's tokens into those of its source and of its target."""
        target = min(length - 1, max(1, round(self.written * length)))
        return length - target, target

    def _measure(self, lengths: list[int]) -> tuple[MicroBatch, Held]:
        vocabulary = self.engine.model.anatomy.vocab_size
        low = min(10, vocabulary // 2)
        examples = []
        for first, length in enumerate(lengths):
            # Another first token for each: common beginnings would be computed only once.
            ids = tuple(low + (first + i) % (vocabulary - low) for i in range(length))
            streams = {"text": EncodedStream(ids)}
            if self.engine.model.anatomy.encoder is not None:
                source, _ = self._parted(length)
                texts = {"source": ids[:source], "target": ids[source:]}
                streams = {name: EncodedStream(text) for name, text in texts.items()}
            examples.append(Encoded(streams))
        batch = collate(examples)
        with seeded(0):
            return MicroBatch.of(batch, self.engine), self.engine.held(batch)


@dataclass(frozen=True)
class _Learnt:
    """Bytes of the gradients: of each layer that learns, of what is above, of the embeddings."""

    layers: tuple[int, ...]
    output: int
    embeddings: int


_STEPS_LOOKED_AT = 64


def largest_micro_batch(plan: Plan, engine: Engine) -> MicroBatch:
    """Return the largest micro-batch of a plan's first steps and of steps all along it.

    Where several tasks learn at once, the largest of any, with the `others`.
    """
    found: dict[str, list[MicroBatch]] = {}
    steps, few = len(plan), _STEPS_LOOKED_AT
    looked_at = {*range(min(steps, few)), *(steps * place // few for place in range(few))}
    for number in sorted(looked_at):
        batches = plan[number].batches
        alone = len(batches) == 1
        for batch in batches:
            found.setdefault(batch.member, []).append(MicroBatch.of(batch, engine, alone))
    largest, *others = sorted(map(_over_all, found.values()), key=_size, reverse=True)
    return replace(largest, others=tuple(others))


def _over_all(sizes: Sequence[MicroBatch]) -> MicroBatch:
    """Return the largest of one task's, with whatever is most of any of them."""
    return replace(
        max(sizes, key=_size),
        squares=max(size.squares for size in sizes),
        targets=max(size.targets for size in sizes),
        alone=all(size.alone for size in sizes),
    )


def _size(batch: MicroBatch) -> tuple[int, int]:
    return batch.tokens, batch.targets
