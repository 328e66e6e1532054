"""What `--json` prints: one document a command, documented field by field.

A program may rely on these names and types within one `schema_version`; fields may be added. A
figure that is not known is null. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.cli.contracts_quality import CleanedFileDetails, DeepDetails

SCHEMA_VERSION = 1

Verdict = Literal["improved", "no evidence", "worse"]
Interval = tuple[float | None, float | None]


class Document(BaseModel):
    """What every document has."""

    model_config = ConfigDict(from_attributes=True)

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of this contract")


class ErrorDetails(BaseModel):
    """What went wrong."""

    what: str = Field(description="one sentence that says what is wrong")
    where: str | None = Field(description="file, line, field or record")
    fix: str | None = Field(description="what to do about it")


class ErrorDocument(Document):
    """Printed by every command in place of its own document when it fails."""

    error: ErrorDetails = Field(description="what went wrong")
    exit_code: int = Field(description="the exit code of the command")


class MetricDetails(BaseModel):
    """One metric, before and after."""

    before: float | None = Field(default=None, description="of the model before training")
    after: float | None = Field(default=None, description="of the model after training")
    difference: float | None = Field(default=None, description="after minus before")
    interval: Interval = Field(
        default=(None, None), description="confidence interval of the difference"
    )
    p_value: float | None = Field(default=None, description="of no difference, two-sided")
    p_holm: float | None = Field(
        default=None, description="the same, corrected for looking at several metrics"
    )
    detectable: float | None = Field(
        default=None, description="smallest true difference that is found four times in five"
    )
    n: int = Field(default=0, description="records on which it was measured")
    unit: str = Field(default="", description="unit of the figures")
    description: str = Field(default="", description="what it measures")
    higher_is_better: bool = Field(default=True, description="whether more is better")


class OutcomeDocument(Document):
    """What a run brought: the verdict and its figures."""

    run: str = Field(description="path of the run directory")
    verdict: Verdict = Field(description="whether the primary metric got better")
    metric: str = Field(description="the primary metric, named before training")
    before: float | None = Field(description="the primary metric before training")
    after: float | None = Field(description="the primary metric after training")
    difference: float | None = Field(description="after minus before")
    interval: Interval = Field(description="confidence interval of the difference")
    detectable: float | None = Field(description="smallest difference this test could show")
    records: int = Field(description="test records on which the primary metric was measured")
    confidence: float = Field(description="confidence of the interval")
    metrics: dict[str, MetricDetails] = Field(description="every metric by name")
    tokens: int = Field(description="tokens computed in training")
    seconds: float = Field(description="time of the training loop")
    tokens_per_second: float = Field(description="of the training loop")
    waited: float | None = Field(
        default=None,
        description="share of that time in which the next records were not ready",
    )
    mfu: float | None = Field(
        default=None,
        description="model FLOPs utilisation of the training loop, as a share of the machine's "
        "measured rate of matrix products",
    )
    trainable_parameters: int = Field(description="parameters that learnt")
    peak_memory_bytes: int | None = Field(description="largest memory of the process")


class TrainDocument(OutcomeDocument):
    """`tunesmith train --json`."""

    report: str = Field(description="path of the report")


class EvaluateDocument(OutcomeDocument):
    """`tunesmith evaluate --json`. The figures of training are those of the run's own training."""

    data: str | None = Field(description="the file given with --data; null: the run's test set")


class SpanDetails(BaseModel):
    """A part of an input that the model points at."""

    start: int = Field(description="its first character, counted from 0")
    end: int = Field(description="the character behind its last")
    text: str = Field(description="what stands there")
    label: str = Field(description="what it is")
    probability: float = Field(description="0 to 1")


class RankedDetails(BaseModel):
    """A document that was put in order."""

    place: int = Field(description="its place in the input, counted from 0")
    text: str = Field(description="the document")
    relevance: float = Field(description="how relevant it is, 0 to 1")


class PredictionDetails(BaseModel):
    """The answer to one input."""

    input: Any = Field(description="the text, the object, or the list")
    text: str = Field(description="the answer, the class (or classes), or the document in front")
    probabilities: dict[str, float] = Field(
        description="probability of each class; empty where no class is asked for"
    )
    spans: list[SpanDetails] = Field(
        default=[],
        description="what was found in the input; of a list of words: in these with spaces between",
    )
    vector: list[float] = Field(default=[], description="of the input, where the task makes one")
    score: float | None = Field(default=None, description="the number, where one is asked for")
    ranking: list[RankedDetails] = Field(
        default=[], description="the documents of the input, the most relevant first"
    )


class PredictDocument(Document):
    """`tunesmith predict --json`."""

    run: str = Field(description="path of the run directory")
    predictions: list[PredictionDetails] = Field(description="one for each input, in order")


class TurnDetails(BaseModel):
    """One turn of a chat."""

    user: str = Field(description="what the user said")
    tuned: str | None = Field(description="what the fine-tuned model answered; null with --base")
    base: str | None = Field(
        description="what the base model answered; null without --base and --compare"
    )


class ChatDocument(Document):
    """`tunesmith chat --json`: the user's turns are the lines of standard input."""

    run: str = Field(description="path of the run directory")
    turns: list[TurnDetails] = Field(description="the conversation")


class PartDetails(BaseModel):
    """One part of the data."""

    model_config = ConfigDict(from_attributes=True)

    records: int = Field(description="records")
    tokens: int = Field(description="tokens of all of them")
    trained_tokens: int = Field(description="tokens that are learnt")
    shortest: int = Field(description="tokens of the shortest record")
    median: float = Field(description="tokens of the median record")
    longest: int = Field(description="tokens of the longest record")


class RecordDetails(BaseModel):
    """A record that needs a look, and why."""

    model_config = ConfigDict(from_attributes=True)

    origin: str = Field(description="file and line")
    reason: str = Field(description="what is the matter with it")


class PieceDetails(BaseModel):
    """Neighbouring tokens as the model sees them, all of them learnt or none."""

    model_config = ConfigDict(from_attributes=True)

    text: str = Field(description="their text")
    trained: bool = Field(description="whether they are learnt")


class ShownDetails(BaseModel):
    """A record as the model sees it (`--show`)."""

    model_config = ConfigDict(from_attributes=True)

    origin: str = Field(description="file and line")
    tokens: list[PieceDetails] = Field(description="its tokens in order, neighbours together")
    learnt: str | None = Field(
        default=None, description="what is learnt of it that is no token of its text: its class"
    )


class CheckDocument(Document):
    """`tunesmith check --json`: all that can be known before training."""

    model: str = Field(description="the model")
    kind: str = Field(description="decoder or encoder")
    task: str = Field(description="the task")
    technique: str = Field(description="the technique")
    format: str = Field(description="the record format that was recognised")
    ignored: list[str] = Field(description="fields of the training records that nothing reads")
    train: PartDetails = Field(description="records to learn from")
    validation: PartDetails | None = Field(description="records to choose by")
    test: PartDetails = Field(description="records to judge by")
    cut: list[RecordDetails] = Field(description="records that are cut to fit")
    dropped: list[RecordDetails] = Field(
        description="records that are left out, as nothing of them would be learnt"
    )
    classes: dict[str, int] | None = Field(description="training records of each class")
    exact_duplicates: list[RecordDetails] = Field(description="records that stand twice in train")
    near_duplicates: list[RecordDetails] = Field(description="records nearly the same as another")
    leaks: list[RecordDetails] = Field(description="test records that stand in train as well")
    parameters: int = Field(description="parameters of the model, without what is added to learn")
    trainable_parameters: int = Field(
        description="parameters that will learn: the model's own, or added ones"
    )
    steps: int = Field(description="optimiser steps")
    memory_bytes: int = Field(description="estimated largest memory")
    seconds: float | None = Field(description="estimated time of the training loop")
    metric: str = Field(description="the metric that will decide")
    detectable: float | None = Field(description="smallest difference this test set could show")
    assumption: str | None = Field(description="what that figure takes for granted")
    remarks: list[str] = Field(
        description="what the task does to records that a user should know (the chat template)"
    )
    warnings: list[str] = Field(description="what should be looked at")
    shown: list[ShownDetails] = Field(description="the records asked for with --show")
    deep: DeepDetails | None = Field(
        default=None, description="what --deep found in the records; null without it"
    )
    page: str | None = Field(default=None, description="where --html wrote the page")


class CleanDocument(Document):
    """`tunesmith clean --json`: what was written anew."""

    files: list[CleanedFileDetails] = Field(description="each file")
    log: str = Field(description="where it says what was done and why")
    format: str = Field(description="the record format that was recognised")
    dropped: dict[str, int] = Field(description="records that were left out, by kind of finding")
    changed: dict[str, int] = Field(description="records that were changed, likewise")
    remarks: list[str] = Field(description="what was not looked for, or not acted upon")


class DevicePlanDetails(BaseModel):
    """One technique on one device."""

    model_config = ConfigDict(from_attributes=True)

    device: str = Field(description="`here`, or the size of its memory")
    capacity: int = Field(description="bytes that training may take there")
    peak: int = Field(description="bytes predicted for the recipe's micro-batches")
    largest: int | None = Field(
        description="tokens of the largest micro-batch that fits; null: not one document, or "
        "nothing is learnt by steps"
    )
    largest_twice: int | None = Field(
        description="the same where every layer is computed twice to save memory"
    )


class TechniquePlanDetails(BaseModel):
    """What the recipe would take with one technique."""

    model_config = ConfigDict(from_attributes=True)

    technique: str = Field(description="its name")
    refused: str | None = Field(description="why it cannot do this, or null")
    trainable: int = Field(description="parameters that learn")
    memory: dict[str, int] = Field(
        description="bytes at the peak of a step on this machine, by what they are for"
    )
    peak: int = Field(description="their sum")
    seconds: float | None = Field(description="estimated time of the training loop")
    tokens_per_second: float | None = Field(description="the same as a rate")
    devices: list[DevicePlanDetails] = Field(description="this machine, and others by their size")


class PlanDocument(Document):
    """`tunesmith plan --json`: what training would take with each technique."""

    model: str = Field(description="the model")
    task: str = Field(description="the task")
    chosen: str = Field(description="the recipe's own technique, which stands first")
    tokens: int = Field(description="tokens that the whole training reads")
    micro_batch: int = Field(description="tokens of the largest micro-batch")
    techniques: list[TechniquePlanDetails] = Field(description="each technique")


class ModelDetails(BaseModel):
    """An entry of the catalogue."""

    name: str = Field(description="the name to write in a recipe")
    hub: str | None = Field(description="its id on the hub")
    kind: str = Field(description="decoder, encoder or encoder-decoder")
    parameters: int | None = Field(description="parameters; null where unknown")
    context: int | None = Field(description="longest input in tokens; null where unknown")
    licence: str = Field(description="licence of the weights")
    gated: bool | None = Field(description="whether the hub asks to accept terms first")
    source: str = Field(description="where these facts come from")
    where: str = Field(
        description="hub-cache or pulled where it is on this machine; else package or hub, from "
        "where it would be fetched"
    )


class ModelsDocument(Document):
    """`tunesmith models list --json`."""

    models: list[ModelDetails] = Field(description="all entries")


class PlaceDocument(Document):
    """`tunesmith models pull NAME --json` and `tunesmith models where NAME --json`."""

    name: str = Field(description="what was asked for")
    path: str = Field(description="folder of its files")
    origin: str = Field(description="folder, gguf, hub-cache, pulled or hub")
    fingerprint: str = Field(description="SHA-256 of the weights")
    revision: str | None = Field(description="commit or package version")


class AttentionDetails(BaseModel):
    """How a layer attends."""

    model_config = ConfigDict(from_attributes=True)

    role: str = Field(description="self, or cross where a decoder looks at an encoder")
    heads: int | None = Field(description="query heads")
    key_value_heads: int | None = Field(description="key and value heads")
    head_size: int | None = Field(description="elements of a head")
    variant: str = Field(description="multi-head, grouped-query, multi-query, latent or unknown")
    fused: bool = Field(description="whether one map gives queries, keys and values")
    bias: bool = Field(description="whether its maps have biases")
    normed: bool = Field(description="whether queries and keys are normalised")
    window: int | None = Field(description="tokens that it sees back; null: all")


class FeedForwardDetails(BaseModel):
    """The part of a layer that works on each token alone."""

    model_config = ConfigDict(from_attributes=True)

    size: int | None = Field(description="inner width")
    activation: str | None = Field(description="name of the activation")
    gated: bool = Field(description="whether one half gates the other")
    experts: int | None = Field(description="experts of a mixture")
    experts_per_token: int | None = Field(description="experts that a token goes through")


class LayerKindDetails(BaseModel):
    """Layers of a stack that are alike; figures are of one of them."""

    model_config = ConfigDict(from_attributes=True)

    indices: list[int] = Field(description="their places in the stack, from 0")
    attention: list[AttentionDetails] = Field(description="how they attend")
    feed_forward: FeedForwardDetails | None = Field(description="the feed-forward part")
    norms: dict[str, int] = Field(description="norms by type")
    parameters: int = Field(description="parameters")
    bytes: int = Field(description="bytes")
    attention_parameters: int = Field(description="parameters of the attention")
    feed_forward_parameters: int = Field(description="parameters of the feed-forward part")
    norm_parameters: int = Field(description="parameters of the norms outside attention")


class StackDetails(BaseModel):
    """Repeated layers."""

    model_config = ConfigDict(from_attributes=True)

    role: str = Field(description="encoder, decoder, layers, or stages (an image network)")
    name: str = Field(description="the module's name")
    depth: int = Field(description="layers")
    kinds: list[LayerKindDetails] = Field(description="its layers, those that are alike together")
    parameters: int = Field(description="parameters")
    bytes: int = Field(description="bytes")


class ModulePartDetails(BaseModel):
    """A part outside the layers."""

    model_config = ConfigDict(from_attributes=True)

    role: str = Field(description="embedding, positions, norm, pooler, output, head or other")
    name: str = Field(description="the module's name")
    parameters: int = Field(description="parameters; shared ones count where they stand first")
    bytes: int = Field(description="bytes")
    shape: list[int] = Field(description="sizes of its only matrix; empty where it has several")


class PositionsDetails(BaseModel):
    """How a model knows the order of tokens."""

    model_config = ConfigDict(from_attributes=True)

    kind: str = Field(description="rotary, learned, relative, alibi, sinusoidal or none")
    theta: float | None = Field(description="base of the rotary angles")
    scaling: str | None = Field(description="how rotary positions are stretched")
    factor: float | None = Field(description="by how much")
    learned: int | None = Field(description="rows of a table of learned positions")


class DescriptionDetails(BaseModel):
    """What a model is made of."""

    model_config = ConfigDict(from_attributes=True)

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


class SpecialTokenDetails(BaseModel):
    """A token with a role."""

    model_config = ConfigDict(from_attributes=True)

    role: str = Field(description="bos, eos, unk, sep, pad, cls or mask")
    text: str = Field(description="the token")
    id: int = Field(description="its id")


class TokenizerDetails(BaseModel):
    """What a tokenizer is."""

    model_config = ConfigDict(from_attributes=True)

    algorithm: str = Field(description="BPE, WordPiece, Unigram …")
    byte_level: bool = Field(description="whether any text can be written in its tokens")
    size: int = Field(description="tokens")
    spare_rows: int | None = Field(description="rows of the embedding that no token uses")
    special: list[SpecialTokenDetails] = Field(description="tokens with a role")
    reserved: int = Field(description="tokens that are kept for the user's own use")
    adds: str = Field(description="what it puts around every text; empty: nothing")
    chat_template: bool = Field(description="whether it has a chat template")
    longest: int | None = Field(description="the length in tokens that it states")


class HazardDetails(BaseModel):
    """Something in a tokenizer that has hurt people."""

    model_config = ConfigDict(from_attributes=True)

    level: str = Field(description="note, warning or broken")
    code: str = Field(description="a stable name, such as pad_is_end")
    what: str = Field(description="what it is")
    fix: str = Field(description="what to do about it")


class ReasonDetails(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(from_attributes=True)

    aspect: str = Field(
        description="architecture, weights, tokenizer, modality, records, language, length, labels"
    )
    verdict: str = Field(description="fit, fit with changes or unfit")
    what: str = Field(description="what was found")
    change: str | None = Field(description="what would make it fit, or what to choose")


class FitDetails(BaseModel):
    """Whether a model is right for a task."""

    model_config = ConfigDict(from_attributes=True)

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


class InitDocument(Document):
    """`tunesmith init --json`."""

    folder: str = Field(description="the folder that was made")
    files: list[str] = Field(description="the files in it")
    next: list[str] = Field(description="commands to go on with")


class ReportDocument(Document):
    """`tunesmith report --json`."""

    run: str = Field(description="path of the run directory")
    report: str = Field(description="path of the report")


class RecipeDocument(Document):
    """`tunesmith recipe show --json`."""

    recipe: dict[str, Any] = Field(description="the recipe with every default")


class RecipeSchemaDocument(Document):
    """`tunesmith recipe schema --json`; without `--json` the schema stands alone."""

    recipe_schema: dict[str, Any] = Field(description="JSON schema of a recipe")


class RateDetails(BaseModel):
    """A rate a second, sampled several times."""

    model_config = ConfigDict(from_attributes=True)

    best: float = Field(description="the highest sample: what the machine can do undisturbed")
    median: float = Field(description="the middle sample")
    spread: float = Field(description="how far the middle one lies below the best, as a share")
    samples: int = Field(description="how many there were")


class ProductDetails(BaseModel):
    """Products of square matrices."""

    model_config = ConfigDict(from_attributes=True)

    dtype: str = Field(description="float32 or bfloat16")
    threads: int | None = Field(description="threads; null on a GPU")
    size: int = Field(description="rows of the matrices whose product was fastest")
    flops: RateDetails = Field(description="floating-point operations a second")


class BandwidthDetails(BaseModel):
    """Memory outside of caches, in bytes that the program asks for."""

    model_config = ConfigDict(from_attributes=True)

    kind: Literal["read", "write", "copy"] = Field(
        description="what was done; a copied byte counts twice, as read and as written"
    )
    threads: int | None = Field(description="threads; null on a GPU")
    bytes: RateDetails = Field(description="bytes a second")


class PageFaultDetails(BaseModel):
    """Touching a page of memory for the first time, by one thread."""

    model_config = ConfigDict(from_attributes=True)

    page_bytes: int = Field(description="size of a page")
    best: float = Field(description="seconds a page, the lowest sample")
    median: float = Field(description="seconds a page, the middle sample")
    samples: int = Field(description="how many there were")


class SurroundingsDetails(BaseModel):
    """What else the machine did meanwhile."""

    model_config = ConfigDict(from_attributes=True)

    others: float = Field(description="cores that other processes kept busy, on average")
    cores: int = Field(description="cores that there are")
    load_average: float | None = Field(description="of the minute before; null where unknown")


class DeviceDetails(BaseModel):
    """What was measured of one device."""

    model_config = ConfigDict(from_attributes=True)

    device: Literal["cpu", "cuda"] = Field(description="kind of device")
    name: str = Field(description="its own name")
    identity: dict[str, str] = Field(
        description="what the figures depend on; they are kept and found again by it"
    )
    measured: str = Field(description="when, UTC")
    seconds: float = Field(description="how long it took")
    chosen_dtype: str = Field(description="format in which Tunesmith computes here by default")
    products: list[ProductDetails] = Field(description="rates of matrix products")
    bandwidths: list[BandwidthDetails] = Field(description="rates of memory")
    buffer_bytes: int = Field(description="memory that was read, written and copied each time")
    balances: dict[str, float] = Field(
        description="FLOPs for each byte read at which arithmetic and memory take equally long, "
        "with all threads, by format"
    )
    page_fault: PageFaultDetails | None = Field(description="null on a GPU")
    surroundings: SurroundingsDetails = Field(description="what else went on")
    file: str | None = Field(default=None, description="where it is kept; null: it could not be")


class HardwareDocument(Document):
    """`tunesmith bench hardware --json`."""

    devices: list[DeviceDetails] = Field(description="the CPU, then a CUDA device if any")
    warnings: list[str] = Field(description="why figures may not be the machine's own")


DOCUMENTS: dict[str, type[Document]] = {
    "init": InitDocument,
    "models list": ModelsDocument,
    "models pull": PlaceDocument,
    "models where": PlaceDocument,
    "inspect": InspectDocument,
    "check": CheckDocument,
    "clean": CleanDocument,
    "plan": PlanDocument,
    "train": TrainDocument,
    "evaluate": EvaluateDocument,
    "predict": PredictDocument,
    "chat": ChatDocument,
    "report": ReportDocument,
    "bench hardware": HardwareDocument,
    "recipe schema": RecipeSchemaDocument,
    "recipe show": RecipeDocument,
    "any command that fails": ErrorDocument,
}
