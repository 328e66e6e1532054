"""What is where in a model: the one list of module names that everything else asks.

`study(module)` derives it from module types and the configuration; a family gets a file beside
this one only where that fails. Techniques, surgery, inspection and the engine's fast paths ask the
anatomy; no other place names a module.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layer:
    """One repeated block. `linears` are the full names of its linear maps, as registered.

    `attentions` are the outermost modules in it that attend: one, or in the decoder of an
    encoder-decoder two (to itself, and across to the encoder).
    """

    name: str
    linears: tuple[str, ...]
    norms: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ()

    @property
    def feed_forward(self) -> tuple[str, ...]:
        """The linear maps that are not part of attention."""
        within = tuple(f"{name}." for name in self.attentions)
        return tuple(name for name in self.linears if not name.startswith(within))


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a model are, as names that `get_submodule` takes.

    Attributes:
        family: the configuration's model type, such as `llama`.
        kind: `decoder`, `encoder` or `encoder-decoder`.
        body: the submodule that turns ids into hidden states ("" where it is the module itself).
        embeddings: the token embedding.
        layers: the repeated blocks, bottom to top; the encoder's come before the decoder's.
        norms: every normalisation, inside layers or not.
        output: the layer over the vocabulary, or None.
        tied: whether that layer shares its weight with the embedding.
        head: modules that belong to the task (a classifier), not to the pre-trained body.
        pooler: the submodule that makes one vector of a document, or None.
        hidden_size: elements of the hidden state that the body gives for a token.
        vocab_size, context_length: sizes in tokens.
        position_norms: those of a table of positions that every layer reads (DeBERTa).
        encoder, decoder: the two stacks of an encoder-decoder; None in other models.
        can_pack: whether documents laid end to end stay separate; *probed* at load, never assumed.
    """

    family: str
    kind: str
    body: str
    embeddings: str
    layers: tuple[Layer, ...]
    norms: tuple[str, ...]
    output: str | None
    tied: bool
    head: tuple[str, ...]
    pooler: str | None
    hidden_size: int
    vocab_size: int
    context_length: int
    position_norms: tuple[str, ...] = ()
    encoder: str | None = None
    decoder: str | None = None
    can_pack: bool = field(default=False)

    @property
    def final_norms(self) -> tuple[str, ...]:
        """The norms behind the last layer: outside the layers, not among the embeddings."""
        return self._norms_behind(self.layers[-1])

    @property
    def encoder_norms(self) -> tuple[str, ...]:
        """Likewise those behind the encoder's last layer, below the decoder; none in others."""
        read = [layer for layer in self.layers if layer.name.startswith(f"{self.encoder}.")]
        found = self._norms_behind(read[-1]) if self.encoder and read else ()
        return tuple(norm for norm in found if norm.startswith(f"{self.encoder}."))

    def _norms_behind(self, layer: Layer) -> tuple[str, ...]:
        holder = layer.name.rsplit(".", 2)[0]
        within = tuple(f"{layer.name}." for layer in self.layers)
        return tuple(
            norm
            for norm in self.norms
            if not norm.startswith(within)
            and "embed" not in norm.removeprefix(self.body)
            and norm not in self.position_norms
            and holder.startswith(norm.rpartition(".")[0])
        )

    @property
    def task_modules(self) -> tuple[str, ...]:
        """What a classification learns beside the body: its head, and the pooler that feeds it."""
        if not self.head:
            return ()
        pooler = () if self.pooler is None or self.pooler in self.head else (self.pooler,)
        return (*pooler, *self.head)
