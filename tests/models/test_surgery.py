"""Surgery: what comes out is loaded by transformers, says what it is, and the source stays."""

import hashlib
import json
import shutil

import pytest
import torch
from pydantic import ValidationError
from tests.acceptance.jobs import ANSWERS, CLASSES, lines, recipe
from tests.tiny import CONTEXT, DECODERS, ENCODERS, tiny_model, tiny_model_folder
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from tunesmith import api
from tunesmith.console import Console
from tunesmith.errors import RecipeError
from tunesmith.models.altered import altered, make_operation, settle, surgery_of
from tunesmith.models.load import load_model, load_result
from tunesmith.models.resolve import resolve
from tunesmith.models.seeded import seeded
from tunesmith.registry import OPERATIONS, TECHNIQUES

SILENT = Console(quiet=True)
IDS = torch.tensor([[7, 8, 9, 30, 31]])
NORMS_AFTER = {"bert", "roberta", "distilbert", "deberta-v2"}
OWN_HEAD_SIZE = {"llama", "mistral", "qwen2", "qwen3", "gemma3"}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of tiny models of four layers, made once."""
    made = {}

    def of(family):
        if family not in made:
            depth = {"n_layers": 4} if family == "distilbert" else {"num_hidden_layers": 4}
            made[family] = tiny_model_folder(tmp_path_factory.mktemp("base"), family, **depth)
        return made[family]

    return of


def operate(folder, *operations):
    return altered(resolve(str(folder)), [make_operation(given) for given in operations], SILENT)


def read(folder, family):
    kind = AutoModelForCausalLM if family in DECODERS else AutoModel
    return kind.from_pretrained(folder).eval()


@torch.no_grad()
def answer(module, ids=IDS):
    return module(input_ids=ids)[0]


def layers(module):
    from tunesmith.models.anatomy import study

    return [module.get_submodule(layer.name) for layer in study(module).layers]


def equal(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


# Layers


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_layers_are_dropped_and_the_others_close_up(bases, family):
    made = operate(bases(family), {"name": "drop", "layers": [1, -1]})
    before, after = (layers(read(f, family)) for f in (bases(family), made.path))
    assert [len(before), len(after)] == [4, 2]
    assert equal(before[0], after[0])
    assert equal(before[2], after[1])
    assert surgery_of(made.path)["changes"] == ["Left out 2 of 4 layers (1, 3)."]


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_layers_are_doubled(bases, family):
    made = operate(bases(family), {"name": "duplicate", "every": 2})
    before, after = (layers(read(f, family)) for f in (bases(family), made.path))
    for place, old in enumerate([0, 1, 1, 2, 3, 3]):
        assert equal(before[old], after[place])


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_copies_that_add_nothing_keep_the_answers_or_are_refused(bases, family):
    operation = {"name": "duplicate", "layers": [0, 2], "zero": True}
    if family in NORMS_AFTER:
        with pytest.raises(RecipeError, match="would not answer as before"):
            operate(bases(family), operation)
        return
    made = operate(bases(family), operation)
    before, after = (read(f, family) for f in (bases(family), made.path))
    assert len(layers(after)) == 6
    torch.testing.assert_close(answer(after), answer(before), atol=1e-5, rtol=1e-5)
    assert surgery_of(made.path)["keeps_answers"]


def test_a_model_is_stacked_on_itself_with_an_overlap(bases):
    made = operate(bases("llama"), {"name": "duplicate", "overlap": 1})
    before, after = (layers(read(f, "llama")) for f in (bases("llama"), made.path))
    for place, old in enumerate([0, 1, 2, 1, 2, 3]):
        assert equal(before[old], after[place])


def test_lists_with_an_entry_a_layer_follow_the_layers(bases):
    made = operate(bases("gemma3"), {"name": "drop", "layers": [0]})
    before, after = (AutoConfig.from_pretrained(f) for f in (bases("gemma3"), made.path))
    assert after.layer_types == before.layer_types[1:]


# Shapes


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_a_wider_feed_forward_part_answers_as_before(bases, family):
    made = operate(bases(family), {"name": "width", "size": 160})
    before, after = (read(f, family) for f in (bases(family), made.path))
    assert sum(p.numel() for p in after.parameters()) > sum(p.numel() for p in before.parameters())
    torch.testing.assert_close(answer(after), answer(before), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_a_narrower_feed_forward_part_keeps_the_units_that_write_most(bases, family):
    made = operate(bases(family), {"name": "width", "size": 16})
    after = read(made.path, family)
    assert "of 16 units, before" in surgery_of(made.path)["changes"][0]
    assert answer(after).isfinite().all()


def test_units_that_write_nothing_are_not_missed(tmp_path):
    module = tiny_model("llama").module
    for layer in module.model.layers:
        layer.mlp.down_proj.weight.data[:, ::2] = 0
    folder = tiny_model_folder(tmp_path)
    module.save_pretrained(folder)
    made = operate(folder, {"name": "width", "size": 24})
    torch.testing.assert_close(
        answer(read(made.path, "llama")), answer(module), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_heads_are_pruned_where_the_family_states_their_size(bases, family):
    operation = {"name": "heads", "keep": 2}
    if family not in OWN_HEAD_SIZE:
        with pytest.raises(RecipeError, match=r"cannot be told apart|no class of this shape"):
            operate(bases(family), operation)
        return
    made = operate(bases(family), operation)
    config = AutoConfig.from_pretrained(made.path)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    assert answer(read(made.path, family)).isfinite().all()


def test_heads_that_write_nothing_are_not_missed(tmp_path):
    module = tiny_model("llama").module
    for layer in module.model.layers:
        layer.self_attn.o_proj.weight.data[:, :16] = 0  # the first of two groups
    folder = tiny_model_folder(tmp_path)
    module.save_pretrained(folder)
    made = operate(folder, {"name": "heads", "keep": 2})
    torch.testing.assert_close(
        answer(read(made.path, "llama")), answer(module), atol=1e-5, rtol=1e-5
    )


def test_heads_that_share_keys_go_together(bases):
    with pytest.raises(RecipeError, match=r"3 of 4 heads .*2 share.*multiple of 2 below 4"):
        operate(bases("llama"), {"name": "heads", "keep": 3})


# Vocabulary


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_new_tokens_begin_as_their_pieces(bases, family):
    made = operate(bases(family), {"name": "vocabulary", "add": ["abc"], "special": ["<new>"]})
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    old = AutoTokenizer.from_pretrained(bases(family))
    [word] = tokenizer("abc", add_special_tokens=False).input_ids
    before, after = (read(f, family) for f in (bases(family), made.path))
    tables = [m.get_input_embeddings().weight for m in (before, after)]
    pieces = old("abc", add_special_tokens=False).input_ids
    torch.testing.assert_close(tables[1][word], tables[0][pieces].mean(0))
    special = tokenizer.convert_tokens_to_ids("<new>")
    torch.testing.assert_close(tables[1][special], tables[0].mean(0))
    torch.testing.assert_close(answer(after)[..., : len(old)], answer(before)[..., : len(old)])


def test_rows_can_be_rounded_up_and_all_begin_as_the_mean(bases):
    made = operate(
        bases("llama"),
        {"name": "vocabulary", "add": ["abc"], "initial": "mean", "multiple_of": 64},
    )
    table = read(made.path, "llama").get_input_embeddings().weight
    old = read(bases("llama"), "llama").get_input_embeddings().weight
    assert len(table) % 64 == 0
    torch.testing.assert_close(table[len(old)], old.mean(0))


def test_a_padding_token_of_its_own_is_set(bases):
    made = operate(bases("llama"), {"name": "vocabulary", "pad": "<mypad>"})
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    assert tokenizer.pad_token == "<mypad>"
    assert AutoConfig.from_pretrained(made.path).pad_token_id == tokenizer.pad_token_id


def test_a_token_that_is_there_already_is_refused(bases):
    with pytest.raises(RecipeError, match=r"'<pad>' is in the vocabulary already"):
        operate(bases("llama"), {"name": "vocabulary", "add": ["<pad>"]})


# Context and dropout


@pytest.mark.parametrize("scaling", ["linear", "ntk", "yarn", "none"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "mistral", "gpt_neox"])
def test_a_rotary_context_is_stretched(bases, family, scaling):
    operation = {"name": "context", "length": 2 * CONTEXT, "scaling": scaling}
    if (family, scaling) == ("gpt_neox", "ntk"):
        with pytest.raises(RecipeError, match=r"turn by one angle alone.*linear"):
            operate(bases(family), operation)
        return
    made = operate(bases(family), operation)
    config = AutoConfig.from_pretrained(made.path)
    assert config.max_position_embeddings == 2 * CONTEXT
    long = torch.arange(10, 10 + 2 * CONTEXT)[None] % 200
    assert answer(read(made.path, family), long).isfinite().all()
    same = torch.equal(answer(read(made.path, family)), answer(read(bases(family), family)))
    # All of the tiny Gemma's layers see a window alone: their positions need no stretching.
    assert same == (scaling == "none" or family == "gemma3")


def test_positions_pressed_together_are_half_positions(bases):
    made = operate(bases("llama"), {"name": "context", "length": 2 * CONTEXT, "scaling": "linear"})
    before, after = (read(f, "llama") for f in (bases("llama"), made.path))
    even = torch.arange(5)[None] * 2
    with torch.no_grad():
        stretched = after(input_ids=IDS, position_ids=even).logits
    torch.testing.assert_close(stretched, answer(before), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt", "bert"])
def test_learned_positions_cannot_be_stretched(bases, family):
    with pytest.raises(RecipeError, match="not rotary but learned"):
        operate(bases(family), {"name": "context", "length": 256})


def test_dropout_is_set_under_the_family_s_own_names(bases):
    made = operate(bases("bert"), {"name": "dropout", "rate": 0.2})
    config = AutoConfig.from_pretrained(made.path)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.2)
    made = operate(bases("gpt2"), {"name": "dropout", "rates": {"resid_pdrop": 0.3}})
    assert AutoConfig.from_pretrained(made.path).resid_pdrop == 0.3
    with pytest.raises(RecipeError, match=r"no rate called 'resid_drop'.* 'resid_pdrop'"):
        operate(bases("gpt2"), {"name": "dropout", "rates": {"resid_drop": 0.3}})


# On a loaded model


def marked(folder, technique="full", *operations, head="causal_lm"):
    model = load_model(resolve(str(folder)), head=head)
    kind = TECHNIQUES.get(technique)
    chosen = [make_operation(given) for given in operations]
    settle(model, chosen, "loaded")
    with seeded(0):
        kind().prepare(model)
    settle(model, chosen, "marked")
    return model


def learning(model):
    return {name for name, p in model.module.named_parameters() if p.requires_grad}


def test_parameters_are_frozen_by_pattern(bases):
    model = marked(bases("llama"), "full", {"name": "freeze", "names": ["embed_tokens", "*norm*"]})
    assert not any("norm" in name or "embed" in name for name in learning(model))
    assert "model.layers.0.mlp.up_proj.weight" in learning(model)
    assert model.surgery[0].startswith("Froze ")


def test_parameters_are_unfrozen_beside_a_technique(bases):
    plain = learning(marked(bases("llama"), "layers"))
    model = marked(bases("llama"), "layers", {"name": "unfreeze", "names": ["layers.0.mlp"]})
    assert {n.split(".")[3] for n in learning(model) - plain} == {"mlp"}


def test_what_an_adapter_would_not_save_is_not_unfrozen(bases):
    with pytest.raises(RecipeError, match="saves only what it adds"):
        marked(bases("llama"), "lora", {"name": "unfreeze", "names": ["embed_tokens"]})


def test_freezing_everything_is_refused(bases):
    with pytest.raises(RecipeError, match="Nothing would be left"):
        marked(bases("llama"), "full", {"name": "freeze", "names": ["*"]})


def test_the_implementation_of_attention_is_switched(bases):
    model = marked(bases("llama"), "lora", {"name": "attention", "implementation": "eager"})
    assert model.module.config._attn_implementation == "eager"
    with pytest.raises(RecipeError, match="cannot attend by 'flash_attention_2'"):
        marked(bases("llama"), "lora", {"name": "attention", "implementation": "flash_attention_2"})


# Files


def test_the_source_is_only_read_and_the_same_surgery_gives_the_same_folder(bases):
    def digest(folder):
        files = sorted(p for p in folder.iterdir() if p.is_file())
        return [(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]

    before = digest(bases("llama"))
    operations = [{"name": "drop", "layers": [1]}, {"name": "dropout", "rates": {}}][:1]
    one, again = operate(bases("llama"), *operations), operate(bases("llama"), *operations)
    other = operate(bases("llama"), {"name": "drop", "layers": [2]})
    assert digest(bases("llama")) == before
    assert one == again
    assert other.path != one.path
    assert one.fingerprint != resolve(str(bases("llama"))).fingerprint


def test_operations_follow_each_other(bases):
    made = operate(
        bases("llama"),
        {"name": "duplicate", "every": 1},
        {"name": "drop", "layers": [-1]},
        {"name": "width", "size": 24},
    )
    assert len(layers(read(made.path, "llama"))) == 7
    assert len(surgery_of(made.path)["changes"]) == 3


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"name": "drop", "layers": [4]}, r"no layer 4: the model has 4"),
        ({"name": "drop", "layers": [0, 1, 2, 3]}, r"All 4 layers would be left out"),
        ({"name": "duplicate", "every": 5}, r"no group of 5 layers"),
        ({"name": "width", "size": 48}, r"48 units wide already"),
        ({"name": "context", "length": 64}, r"not longer than the model's 128"),
    ],
)
def test_what_a_model_lacks_is_refused(bases, operation, message):
    with pytest.raises(RecipeError, match=message):
        operate(bases("llama"), operation)


@pytest.mark.parametrize(
    ("name", "options"),
    [("drop", {}), ("drop", {"layers": []}), ("duplicate", {}),
     ("duplicate", {"every": 1, "layers": [0]}), ("duplicate", {"overlap": 1, "zero": True}),
     ("dropout", {}), ("dropout", {"rate": 1.0}), ("width", {"size": 0}), ("heads", {"keep": 0})],
)  # fmt: skip
def test_options_out_of_bounds_are_refused(name, options):
    with pytest.raises(ValidationError):
        OPERATIONS.get(name).Options(**options)


# Whole runs


@pytest.mark.parametrize("technique", ["full", "{name: lora, rank: 2}"])
def test_an_altered_model_trains_saves_and_is_read_back(bases, tmp_path, monkeypatch, technique):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text(lines(ANSWERS))
    (tmp_path / "recipe.yaml").write_text(
        recipe(model=bases("llama"), technique=technique,
               surgery="[{name: drop, layers: [1]}, {name: freeze, names: [layers.0]}]")
    )  # fmt: skip
    run = api.train(tmp_path / "recipe.yaml", console=SILENT)
    noted = json.loads((run.path / "record.json").read_text())["surgery"]
    assert [sentence.split()[0] for sentence in noted] == ["Left", "Froze"]
    assert "Left out 1 of 4 layers (1)." in (run.path / "report.html").read_text()
    said = run.predict(["Say horse lamp"])[0].text
    if technique != "full":  # the base is made again where its folder is gone
        shutil.rmtree(tmp_path / "cache" / "altered")
    assert api.open_run(run.path).predict(["Say horse lamp"])[0].text == said
    assert len(load_result(run.path / "model").anatomy.layers) == 3


def test_a_classifier_is_altered_too(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text(lines(CLASSES))
    (tmp_path / "recipe.yaml").write_text(
        recipe(model=bases("bert"), task="classification", technique="full",
               surgery="[{name: dropout, rate: 0.1}, {name: drop, layers: [-1]}]")
    )  # fmt: skip
    run = api.train(tmp_path / "recipe.yaml", console=SILENT)
    config = AutoConfig.from_pretrained(run.path / "model")
    assert (config.num_hidden_layers, config.hidden_dropout_prob) == (3, 0.1)
