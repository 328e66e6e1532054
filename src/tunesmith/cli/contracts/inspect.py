"""What `inspect` prints: what a model is made of, and whether it fits a task."""

from __future__ import annotations

from pydantic import Field

from tunesmith.cli.contracts.document import Details, Document


class AttentionDetails(Details):
    """How a layer attends."""

    role: str = Field(description="self, or cross where a decoder looks at an encoder")
    heads: int | None = Field(description="query heads")
    key_value_heads: int | None = Field(description="key and value heads")
    head_size: int | None = Field(description="elements of a head")
    variant: str = Field(description="multi-head, grouped-query, multi-query, latent or unknown")
    fused: bool = Field(description="whether one map gives queries, keys and values")
    bias: bool = Field(description="whether its maps have biases")
    normed: bool = Field(description="whether queries and keys are normalised")
    window: int | None = Field(description="tokens that it sees back; null: all")


class FeedForwardDetails(Details):
    """The part of a layer that works on each token alone."""

    size: int | None = Field(description="inner width")
    activation: str | None = Field(description="name of the activation")
    gated: bool = Field(description="whether one half gates the other")
    experts: int | None = Field(description="experts of a mixture")
    experts_per_token: int | None = Field(description="experts that a token goes through")


class LayerKindDetails(Details):
    """Layers of a stack that are alike; figures are of one of them."""

    indices: list[int] = Field(description="their places in the stack, from 0")
    attention: list[AttentionDetails] = Field(description="how they attend")
    feed_forward: FeedForwardDetails | None = Field(description="the feed-forward part")
    norms: dict[str, int] = Field(description="norms by type")
    parameters: int = Field(description="parameters")
    bytes: int = Field(description="bytes")
    attention_parameters: int = Field(description="parameters of the attention")
    feed_forward_parameters: int = Field(description="parameters of the feed-forward part")
    norm_parameters: int = Field(description="parameters of the norms outside attention")


class StackDetails(Details):
    """Repeated layers."""

    role: str = Field(description="encoder, decoder, layers, or stages (an image network)")
    name: str = Field(description="the module's name")
    depth: int = Field(description="layers")
    kinds: list[LayerKindDetails] = Field(description="its layers, those that are alike together")
    parameters: int = Field(description="parameters")
    bytes: int = Field(description="bytes")


class ModulePartDetails(Details):
    """A part outside the layers."""

    role: str = Field(description="embedding, positions, norm, pooler, output, head or other")
    name: str = Field(description="the module's name")
    parameters: int = Field(description="parameters; shared ones count where they stand first")
    bytes: int = Field(description="bytes")
    shape: list[int] = Field(description="sizes of its only matrix; empty where it has several")


class PositionsDetails(Details):
    """How a model knows the order of tokens."""

    kind: str = Field(description="rotary, learned, relative, alibi, sinusoidal or none")
    theta: float | None = Field(description="base of the rotary angles")
    scaling: str | None = Field(description="how rotary positions are stretched")
    factor: float | None = Field(description="by how much")
    learned: int | None = Field(description="rows of a table of learned positions")


class DescriptionDetails(Details):
    """What a model is made of."""

    family: str = Field(description="the configuration's model type")
    kind: str = Field(description="decoder, encoder, encoder-decoder, image, audio …")
    architecture: str = Field(description="transformers' class")
    dtype: str = Field(description="number format of its weights")
    parameters: int = Field(description="parameters")
    bytes: int = Field(description="bytes of all weights")
    hidden_size: int | None = Field(description="elements of a token's hidden state")
    vocab_size: int | None = Field(description="rows of the token embedding")
    context_length: int | None = Field(description="longest input in tokens; null: no limit")
    positions: PositionsDetails = Field(description="how it knows the order of tokens")
    output: str | None = Field(description="name of the layer over the vocabulary")
    tied: bool = Field(description="whether that layer shares the embedding's weights")
    parts: list[ModulePartDetails] = Field(description="parts outside the layers")
    stacks: list[StackDetails] = Field(description="repeated layers")
    quantized_bytes: dict[str, int] = Field(
        description="bytes of all weights as a frozen base, by `base.quantize`"
    )


class SpecialTokenDetails(Details):
    """A token with a role."""

    role: str = Field(description="bos, eos, unk, sep, pad, cls or mask")
    text: str = Field(description="the token")
    id: int = Field(description="its id")


class TokenizerDetails(Details):
    """What a tokenizer is."""

    algorithm: str = Field(description="BPE, WordPiece, Unigram …")
    byte_level: bool = Field(description="whether any text can be written in its tokens")
    size: int = Field(description="tokens")
    spare_rows: int | None = Field(description="rows of the embedding that no token uses")
    special: list[SpecialTokenDetails] = Field(description="tokens with a role")
    reserved: int = Field(description="tokens that are kept for the user's own use")
    adds: str = Field(description="what it puts around every text; empty: nothing")
    chat_template: bool = Field(description="whether it has a chat template")
    longest: int | None = Field(description="the length in tokens that it states")


class HazardDetails(Details):
    """Something in a tokenizer that has hurt people."""

    level: str = Field(description="note, warning or broken")
    code: str = Field(description="a stable name, such as pad_is_end")
    what: str = Field(description="what it is")
    fix: str = Field(description="what to do about it")


class ReasonDetails(Details):
    """One thing that was looked at."""

    aspect: str = Field(
        description="architecture, weights, tokenizer, modality, records, language, length, labels"
    )
    verdict: str = Field(description="fit, fit with changes or unfit")
    what: str = Field(description="what was found")
    change: str | None = Field(description="what would make it fit, or what to choose")


class FitDetails(Details):
    """Whether a model is right for a task."""

    task: str = Field(description="the task")
    verdict: str = Field(description="fit, fit with changes or unfit: the worst of the reasons")
    reasons: list[ReasonDetails] = Field(description="what was looked at")
    better: str | None = Field(description="a better choice, where it is unfit")


class InspectDocument(Document):
    """`tunesmith inspect --json`."""

    model: str = Field(description="what was asked for")
    path: str = Field(description="folder of its configuration")
    weights: bool = Field(description="whether its weights are on this machine")
    description: DescriptionDetails | None = Field(
        description="what it is made of; null where transformers has no such model"
    )
    tokenizer: TokenizerDetails | None = Field(description="its tokenizer; null: it has none")
    hazards: list[HazardDetails] = Field(description="what in the tokenizer has hurt people")
    fit: FitDetails | None = Field(description="the judgement for --task; null without one")
