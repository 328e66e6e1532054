"""LoRA on one GPU: Tunesmith's engine against a plain transformers + PEFT loop, same work.

    python benchmarks/lora_gpu.py [--out results/lora_gpu.json]

Random weights in the shape of SmolLM2-135M and of a 1.2B Llama; documents of mixed lengths, all
tokens learnt; LoRA rank 16 on all linear layers, bfloat16 base, float32 adapters. The peer pads each
batch to its longest document, as a default trainer does, under autocast. Both sides see the same
documents in the same steps; runs alternate; tokens are counted without padding.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.data.plan import Plan
from tunesmith.engine.engine import Engine
from tunesmith.models.anatomy import study
from tunesmith.models.model import Model
from tunesmith.models.resolve import Resolved
from tunesmith.models.seeded import seeded
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES

SHAPES = {
    "SmolLM2-135M": dict(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True,
    ),
    "Llama-1.2B": dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True,
    ),
}  # fmt: skip
STEPS, BATCH, WARM_UP = 24, 32, 4
RATE = 2e-4


def make_documents() -> list[Encoded]:
    """Documents of 32 to 1,024 tokens, most of them short: a log-normal of lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.empty(STEPS * BATCH).log_normal_(5.0, 0.7, generator=generator)
    found = []
    for length in lengths.clamp(32, 1024).int().tolist():
        ids = torch.randint(10, 49000, (length,), generator=generator).tolist()
        found.append(Encoded({"text": EncodedStream(tuple(ids), (1.0,) * length)}))
    return found


def make_module(shape: dict) -> LlamaForCausalLM:
    with seeded(0):
        config = LlamaConfig(max_position_embeddings=8192, **shape)
        return LlamaForCausalLM(config).to(torch.bfloat16).cuda()


def ours(shape: dict, documents: list[Encoded]) -> dict:
    module = make_module(shape)
    source = Resolved("random", Path("."), "folder", "0" * 64)
    model = Model(module, None, study(module), source)
    kind = TECHNIQUES.get("lora")
    technique = kind(kind.Options(rank=16))
    technique.prepare(model)
    engine = Engine(model, technique.parameter_groups(model), dtype=torch.bfloat16)
    objective = TokenLikelihood()
    plan = Plan(documents, objective.counts, batch_size=BATCH, tokens_per_batch=16384)

    def step(number: int) -> float:
        loss = 0.0
        for batch in (found := plan[number]):
            loss += engine.forward_backward(batch, objective, found.counts)[0]["nll"]
        engine.optimizer_step(RATE)
        return loss

    return timed(step, plan)


def peer(shape: dict, documents: list[Encoded]) -> dict:
    module = make_module(shape)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(module, config).train()
    learns = [p for p in wrapped.parameters() if p.requires_grad]
    for parameter in learns:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(learns, lr=RATE, weight_decay=0.0, fused=True)
    plan = Plan(documents, lambda b: {}, batch_size=BATCH, tokens_per_batch=16384)

    def step(number: int) -> float:
        rows = [documents[i].streams["text"].ids for i in plan.indices(number)]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = labels[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = wrapped(
                input_ids=ids.cuda(), attention_mask=mask.cuda(), labels=labels.cuda()
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return timed(step, plan)


def timed(step, plan: Plan) -> dict:
    torch.cuda.reset_peak_memory_stats()
    for number in range(WARM_UP):
        step(number)
    torch.cuda.synchronize()
    began = time.perf_counter()
    losses = [step(number) for number in range(WARM_UP, STEPS)]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    tokens = sum(plan[number].tokens for number in range(WARM_UP, STEPS))
    return {
        "tokens_per_second": tokens / seconds,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "last_loss": losses[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    documents = make_documents()
    results = []
    for name, shape in SHAPES.items():
        for round_ in range(2):
            for side, run in (("tunesmith", ours), ("transformers + PEFT loop", peer)):
                torch.cuda.empty_cache()
                found = {"shape": name, "side": side, "round": round_, **run(shape, documents)}
                results.append(found)
                print(json.dumps(found), flush=True)
    if options.out:
        report = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        options.out.write_text(json.dumps({**report, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
