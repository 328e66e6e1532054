"""The engine: the few verbs under everything that learns.

    forward            a readout, no gradients        evaluation, features, reference log-probs
    begin_step         tells the learning rate        before a step's first pass
    forward_backward   gradients are added up         one micro-batch of a step
    optimizer_step     clip, update, clear            one step
    generate           tokens + log-probabilities     from the weights as they are now
    frozen_rows        what the frozen layers give    computed once, then kept and put in
    state_dict         what a resumed run needs, bit for bit

It owns a model and an optimiser. It knows nothing of tasks, files or recipes; how often and in
which order the verbs are called is somebody else's loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from tunesmith.data.batch import Batch, Stream
from tunesmith.engine.checkpointing import Held, LayerCheckpoints
from tunesmith.engine.float8 import learn_in_float8
from tunesmith.engine.fusion import fused
from tunesmith.engine.generation import TOGETHER, Generated, Generator, Sampling
from tunesmith.engine.generation_stock import StockGenerator
from tunesmith.engine.kept_rows import Kept, Per
from tunesmith.engine.optimizer import AdamWOptions, Optimizer
from tunesmith.engine.packing import computed_rows, probe_layout, run_body
from tunesmith.engine.pairs import pair_rows, probe_pairs, run_pair
from tunesmith.engine.precision import computing
from tunesmith.engine.prefix import Prefix, find_prefix, frozen_tensors
from tunesmith.engine.prefix_rows import compute_rows, going_on, refusal
from tunesmith.engine.readout import PER_DOCUMENT, probe_output, read, read_documents
from tunesmith.engine.sharing import begun
from tunesmith.kernels.allocator import give_back_heap, reuse_memory
from tunesmith.kernels.token_loss import LogitShape
from tunesmith.models.heads import document_rows
from tunesmith.models.model import Model
from tunesmith.objectives.base import Objective, TokenLogProbs, Vectors
from tunesmith.techniques.base import ParameterGroup

R = TypeVar("R")
Adapter = Literal["on", "off"]


class Engine:
    """A model that can learn.

    Attributes:
        prefix: what of its body lies below the first thing that learns.
        kept: rows that are taken instead of computing the prefix, where they were kept.

    Args:
        model: a loaded model; what learns has `requires_grad`.
        groups: what learns, as a technique groups it.
        optimizer: settings of AdamW.
        dtype: the format to compute in (float32 or bfloat16).
        packing: lay documents end to end where the model keeps them apart; False pads always.
        fuse: use the fast forms of single modules; False takes the stock ones.
        float8: multiply the linear layers that learn in 8 bits; `kernels` says how many do.

    Raises:
        ModelError: the model cannot be called with a ragged batch and give right results.
    """

    def __init__(
        self,
        model: Model,
        groups: Sequence[ParameterGroup] = (),
        optimizer: AdamWOptions | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        packing: bool = True,
        fuse: bool = True,
        float8: bool = False,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.device = next(model.module.parameters()).device
        self.memory = reuse_memory()
        self._pairs = model.anatomy.encoder is not None
        with computing(dtype, self.device):
            self.layout = probe_pairs(model) if self._pairs else probe_layout(model)
            self.logit_shape = probe_output(model) if model.anatomy.output else LogitShape()
        self.packed = packing and self.layout.can_pack
        self._generator = Generator(
            model, self.layout, self.logit_shape, keep=self.packed, fuse=fuse
        )
        self._stock = StockGenerator(model)
        self.optimizer = Optimizer(groups, optimizer or AdamWOptions())
        self.kernels = fused(model, dtype) if fuse else {}
        if float8:
            self.kernels |= learn_in_float8(model, self.optimizer.parameters.values(), dtype)
        self.checkpoints = LayerCheckpoints(model)
        self.prefix = Prefix()
        if self.optimizer.parameters and not self._pairs:
            with computing(dtype, self.device):
                self.prefix = find_prefix(model, self.layout, packed=self.packed)
        self.kept: Kept | None = None
        self._drops = _drops(model.module)
        self._answers_as = ""
        self._training: bool | None = None
        if self.memory.kept:
            give_back_heap()  # what loading and joining weights left there

    def forward(self, batch: Batch, readout: type[R], adapter: Adapter = "on") -> R:
        """Return a readout of the batch, without gradients and without dropout.

        Args:
            adapter: `off` answers as the model did before adapters were added.
        """
        with torch.no_grad(), self._mode(training=False), self._adapter(adapter):
            found: R = self._read(batch.to(self.device), readout, None)
            return found

    def forward_backward(
        self, batch: Batch, objective: Objective, counts: Mapping[str, float]
    ) -> tuple[dict[str, float], Any]:
        """Add this micro-batch's gradients to those of the step.

        Args:
            counts: each term's count over the *whole* step, by which its sum is divided.

        Returns:
            What each term adds to the loss of the step, and the readout, detached.
        """
        batch = batch.to(self.device)
        before = [term.before(batch) for term in objective.further]
        with self._mode(training=True):
            readout, *others = self._read_all(batch, objective)
            terms = dict(objective.loss(readout, batch))
            for further, other, found in zip(objective.further, others, before, strict=True):
                terms[further.name] = further.loss(other, batch, found)
            shares = {
                name: term.total * (term.weight / counts[name]) for name, term in terms.items()
            }
            torch.autograd.backward(torch.stack(list(shares.values())).sum())
        return {name: float(share.detach()) for name, share in shares.items()}, readout

    @contextmanager
    def answering_as(self, member: str) -> Iterator[None]:
        """Within, batches that name no member of a model of several heads are that member's."""
        before, self._answers_as = self._answers_as, member
        try:
            yield
        finally:
            self._answers_as = before

    def begin_step(self, learning_rate: float) -> None:
        """Tell the rate of the step that begins; an update within the backward pass needs it."""
        self.optimizer.begin(learning_rate)

    def optimizer_step(self, learning_rate: float) -> float:
        """Update what learns and clear the gradients; return the gradient norm before clipping."""
        return self.optimizer.step(learning_rate)

    def held(self, batch: Batch) -> Held:
        """Return what the backward pass would hold of this batch's way through the body."""
        batch = batch.to(self.device)
        with self._mode(training=True), computing(self.dtype, self.device):
            return self.checkpoints.measure(lambda: self._run(batch))

    def computed_rows(self, batch: Batch) -> int:
        """Return how many rows of the body a training pass over this batch computes."""
        if batch.source is not None:
            return pair_rows(batch.source, batch.text, packed=self.packed)
        share = not self._drops
        return computed_rows(batch.whole, self.layout, packed=self.packed, share=share) + (
            len(batch.whole.lengths) * self.virtual_rows
        )

    @property
    def virtual_rows(self) -> int:
        """How many virtual tokens the body computes before each text."""
        virtual = self.model.virtual
        return 0 if virtual is None or virtual.cached else virtual.tokens

    def begun(self, batch: Batch) -> tuple[int, ...]:
        """Return how many first tokens of each document a training pass computes with another's.

        Empty where every document is computed by itself.
        """
        shares = self.packed and self.layout.can_share and not self._drops
        return begun(batch.whole) if shares and batch.source is None else ()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        adapter: Adapter = "on",
        *,
        together: int = TOGETHER,
        ended: Callable[[], object] = lambda: None,
    ) -> list[Generated]:
        """Continue each prompt until a stop token or `sampling.max_new_tokens`.

        Args:
            together: texts at a time; a finished one makes room for the next.
            ended: called whenever a text has ended.
        """
        with self._generating(), self._adapter(adapter):
            return self._continues(sampling).generate(
                prompts, sampling, together=together, ended=ended
            )

    @torch.no_grad()
    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Yield the ids of one continuation as they are made."""
        with self._generating():
            yield from self._continues(sampling).stream(prompt, sampling)

    def generation(self) -> str:
        """Say in words how texts are continued; the first time it is tried out."""
        with self._generating():
            return (self._stock if self._pairs else self._generator).form

    def frozen_rows(self, batch: Batch, per: Per) -> Tensor:
        """Return what the frozen prefix gives for a batch, without gradients and without dropout.

        Args:
            per: `token`: the hidden states behind the prefix's last layer, `rows_TD`; `document`:
                what the head reads of each document, `rows_BD`, where the whole body is frozen.
        """
        text = batch.to(self.device).text
        with torch.no_grad(), self._mode(training=False), computing(self.dtype, self.device):
            if per == "token":
                return compute_rows(self.model, self.prefix, text, self.layout, packed=self.packed)
            return document_rows(self.model, self._hidden(text), text.cu_seqlens)

    def look_for_prefix(self, learnt: Collection[str]) -> None:
        """Find the frozen prefix of a model that has been trained, which nothing learns in now.

        Args:
            learnt: names of the parameters that learnt.
        """
        parameters = dict(self.model.module.named_parameters())
        marks = {name: parameter.requires_grad for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.requires_grad_(name in learnt)
            with computing(self.dtype, self.device):
                self.prefix = find_prefix(self.model, self.layout, packed=self.packed)
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(marks[name])

    def refuses_rows(self) -> str | None:
        """Return why the body cannot go on from kept rows, or None where it can."""
        with computing(self.dtype, self.device):
            return refusal(self.model, self.prefix, self.layout, packed=self.packed)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what learns and the optimiser's state, as `weights/…` and `optimizer/…`."""
        weights = {f"weights/{n}": p.detach() for n, p in self.optimizer.parameters.items()}
        moments = {f"optimizer/{n}": t for n, t in self.optimizer.state_dict().items()}
        return weights | moments

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            KeyError: something of what learns here is missing there; of a `Stored`, InputError.
        """
        with torch.no_grad():
            for name, parameter in self.optimizer.parameters.items():
                parameter.copy_(state[f"weights/{name}"])
        self.optimizer.load_state_dict(state, "optimizer/")
        self._generator.forget()

    def digest(self) -> str:
        """Return the SHA-256 of what learns, as it is now."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.optimizer.parameters.items()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def frozen_digest(self) -> str:
        """Return the SHA-256 of what the frozen prefix is made of: its weights and buffers."""
        digest = hashlib.sha256()
        for tensor in frozen_tensors(self.model, self.prefix):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _read_all(self, batch: Batch, objective: Objective) -> list[Any]:
        """Return what an objective and its further terms need, of one pass of the body."""
        weights_N = objective.token_weights(batch)
        if not objective.further:
            return [self._read(batch, objective.reads(batch), weights_N)]
        wanted = [objective.reads(batch), *(term.readout for term in objective.further)]
        with computing(self.dtype, self.device):
            hidden_TD = self._run(batch)
            return [
                read(
                    self._headed(batch),
                    hidden_TD,
                    batch.text,
                    readout,
                    self.logit_shape,
                    token_weights=weights_N if readout is TokenLogProbs else None,
                )
                for readout in wanted
            ]

    def _continues(self, sampling: Sampling) -> Generator | StockGenerator:
        return self._stock if self._pairs or sampling.beams > 1 else self._generator

    def _read(self, batch: Batch, readout: type[Any], token_weights: Tensor | None) -> Any:
        with computing(self.dtype, self.device):
            if self.kept is not None and self.kept.per == "document" and readout in PER_DOCUMENT:
                rows_BD = self.kept.find(batch.text)
                if rows_BD is not None:
                    return read_documents(self._headed(batch), rows_BD, readout)
            model = self._headed(batch)
            if readout is Vectors:
                whole = batch.whole
                rows_ND = document_rows(model, self._hidden(whole), whole.cu_seqlens)
                return Vectors(rows_ND.view(len(batch.streams), len(batch), -1))
            hidden_TD = self._run(batch)
            weights = token_weights if readout is TokenLogProbs else None
            return read(
                model, hidden_TD, batch.text, readout, self.logit_shape, token_weights=weights
            )

    def _headed(self, batch: Batch) -> Model:
        """Return the model whose head reads this batch; the body is the same for all."""
        return self.model.of(batch.member or self._answers_as)

    def _run(self, batch: Batch) -> Tensor:
        """Return the last hidden state of every token of all texts; of a pair, of the target's."""
        if batch.source is not None:
            return run_pair(self.model, batch.source, batch.text, packed=self.packed)
        return self._hidden(batch.whole)

    def _hidden(self, stream: Stream) -> Tensor:
        run = partial(run_body, self.model, stream, self.layout, packed=self.packed)
        share = not (self._training and self._drops)
        per_token = self.kept is not None and self.kept.per == "token"
        rows_TD = self.kept.find(stream) if self.kept is not None and per_token else None
        if rows_TD is None:
            return run(share=share)
        with going_on(self.model, self.prefix, rows_TD, stream, packed=self.packed):
            return run(share=share)

    @contextmanager
    def _mode(self, *, training: bool) -> Iterator[None]:
        """Dropout on or off; what lies below the first thing that learns stays in evaluation."""
        if self._training is not training:  # walking over all modules costs milliseconds
            self._training = training
            for module in self.model.modules:
                module.train(training)
            if training:
                self._generator.forget()
            for module in self.prefix.modules if training else ():
                module.eval()
        yield

    @contextmanager
    def _generating(self) -> Iterator[None]:
        with torch.no_grad(), self._mode(training=False), computing(self.dtype, self.device):
            yield

    @contextmanager
    def _adapter(self, adapter: Adapter) -> Iterator[None]:
        if adapter == "on" or self.model.peft is None:
            yield
            return
        with self.model.peft.disable_adapter():
            yield


def _drops(module: nn.Module) -> bool:
    """Whether anything in a module is dropped at random in training.

    Documents that share a beginning would share what is dropped of it.
    """
    return any(
        value > 0.0
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, float) and ("dropout" in name or isinstance(part, nn.Dropout))
    )
