"""Generation against transformers: `python -m benchmarks.generation` ──> results/generation-….json

    fixed      every text gets the same number of new tokens, none ends before: speed alone
    answers    texts end where the model ends them, or at the limit: what evaluation and rollouts do

Every side answers the same prompts greedily in float32, sixteen texts at a time, as a fresh process
that loads the model, generates and ends; sides take turns, in an order that turns round from one
round to the next. Tokens/s are those of the answers over the whole of generating, whatever is tried
out, copied or compiled in it. How many texts came out the same as those of transformers' `generate`
is counted, token for token.

llama.cpp works on the same weights in float16, in an environment of its own.

The prompts are instructions of Alpaca's form (`peers/work.py`), in the model's own chat template.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.__main__ import RESULTS, command_line, machine
from benchmarks.peers.environments import PEERS, ensure
from benchmarks.peers.measure import (
    FINISHED,
    NOT_INSTALLED,
    NOT_REPEATED,
    RUNNERS,
    Outcome,
    run_reporting,
)
from benchmarks.peers.summary import spread
from benchmarks.peers.work import fetch_instructions

ROOT = Path(__file__).parents[1]
TOGETHER = 16
F16 = "f16.gguf"
FORMS = ("fixed", "answers")


@dataclass(frozen=True)
class Job:
    """What every side does: continue `prompts` by `limit` tokens; less where `stop_ids` say so."""

    model: str
    prompts: list[list[int]]
    limit: int
    stop_ids: list[int]


Answers = list[list[int]]


def tunesmith(job: Job, fuse: bool = True) -> Callable[[], Answers]:
    """Tunesmith's engine; with `fuse` off the stock layers, one by one."""
    from tunesmith.engine.engine import Engine
    from tunesmith.engine.generation import Sampling
    from tunesmith.models.load import load_model
    from tunesmith.models.resolve import resolve

    model = load_model(resolve(job.model), head="causal_lm")
    engine = Engine(model, fuse=fuse)
    sampling = Sampling(job.limit, tuple(job.stop_ids))
    return lambda: [made.ids for made in engine.generate(job.prompts, sampling, together=TOGETHER)]


def tunesmith_stock(job: Job) -> Callable[[], Answers]:
    """The same with transformers' layers."""
    return tunesmith(job, fuse=False)


def generate(job: Job, ordered: bool = False) -> Callable[[], Answers]:
    """transformers' `generate`, padded on the left; in groups as the prompts come."""
    import torch

    model: Any = _stock(job)
    order = list(range(len(job.prompts)))
    if ordered:
        order.sort(key=lambda number: len(job.prompts[number]))

    def work() -> Answers:
        answers: dict[int, list[int]] = {}
        for start in range(0, len(order), TOGETHER):
            chosen = order[start : start + TOGETHER]
            rows = [job.prompts[number] for number in chosen]
            longest = max(map(len, rows))
            ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
            made = model.generate(input_ids=ids, attention_mask=mask, **_options(job))
            answers.update(zip(chosen, made[:, longest:].tolist(), strict=True))
        return [until(answers[number], job.stop_ids) for number in range(len(order))]

    return work


def generate_ordered(job: Job) -> Callable[[], Answers]:
    """The same in groups of similar length."""
    return generate(job, ordered=True)


def continuous(job: Job) -> Callable[[], Answers]:
    """transformers' continuous batching; its cache is held to what these texts need.

    Left to itself it takes nine tenths of the machine's memory.
    """
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    model: Any = _stock(job)
    page = 256
    pages = sum(-(-(len(prompt) + job.limit) // page) for prompt in job.prompts)
    settings = ContinuousBatchingConfig(
        page_size=page, num_blocks=pages, max_batch_tokens=2048, use_cuda_graph=False
    )
    config = GenerationConfig(**_options(job))

    def work() -> Answers:
        made = model.generate_batch(
            job.prompts, generation_config=config, continuous_batching_config=settings
        )
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for output in made.values():
            if output.error:
                raise RuntimeError(output.error)
            by_prompt[tuple(output.prompt_ids)] = list(output.generated_tokens)
        return [until(by_prompt[tuple(prompt)], job.stop_ids) for prompt in job.prompts]

    return work


SIDES: Mapping[str, tuple[str, Callable[[Job], Callable[[], Answers]]]] = {
    "tunesmith": ("Tunesmith", tunesmith),
    "tunesmith-stock": ("Tunesmith, stock layers", tunesmith_stock),
    "generate": ("transformers `generate`", generate),
    "generate-ordered": ("transformers `generate`, sorted by length", generate_ordered),
    "continuous": ("transformers, continuous batching", continuous),
}
OURS, REFERENCE, LLAMA_CPP = "tunesmith", "generate", "llama.cpp"
TITLES = {key: title for key, (title, _) in SIDES.items()} | {LLAMA_CPP: "llama.cpp, float16"}


def _stock(job: Job) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = job.stop_ids or None
    return model


def _options(job: Job) -> dict[str, Any]:
    eos: Any = job.stop_ids or None
    return {
        "max_new_tokens": job.limit,
        "do_sample": False,
        "eos_token_id": eos,
        "pad_token_id": 0,
    }


def until(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """Return an answer without its stop token and what is padded behind it."""
    ends = [place for place, token in enumerate(ids) if token in stop_ids]
    return list(ids[: ends[0]] if ends else ids)


def run_side(key: str, job: Job, out: Path) -> None:
    """Generate in this process, and report to `out`."""
    from benchmarks.peers.runners.report import Report

    import tunesmith.models.quiet as quiet

    report = Report(out)
    with quiet.quiet():
        work = SIDES[key][1](job)
        began = time.monotonic()
        answers = work()
        seconds = time.monotonic() - began
    tokens = sum(map(len, answers))
    report.figure("generated_tokens", tokens)
    report.figure("generating_seconds", seconds)
    report.figure("generated_per_second", tokens / seconds)
    (out / "answers.json").write_text(json.dumps(answers))


def measure(key: str, job_file: Path, out: Path, timeout: float) -> Outcome:
    """Run one side as a fresh process."""
    out.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.generation",
        "--side",
        key,
        str(job_file),
        str(out),
    ]
    if key == LLAMA_CPP:
        where = ensure(PEERS[LLAMA_CPP])
        if where.python is None:
            return {"status": NOT_INSTALLED, "error": where.failure, "peak_memory_bytes": 0}
        script, weights = RUNNERS / "llama_cpp.py", job_file.parent / F16
        command = [where.python, str(script), str(job_file), str(out), str(weights), str(TOGETHER)]
    outcome = run_reporting(command, out, timeout, cwd=ROOT)
    return {name: outcome[name] for name in _KEPT if name in outcome}


_KEPT = (
    "generated_tokens",
    "generating_seconds",
    "generated_per_second",
    "peak_memory_bytes",
    "seconds_to_finished",
    "status",
    "error",
)


def rounds(
    form: str, keys: Sequence[str], job_file: Path, scratch: Path, count: int, timeout: float
) -> list[Outcome]:
    """Run the sides in turns; one that did not finish is not run again."""
    outcomes: list[Outcome] = []
    gone: set[str] = set()
    for number in range(count):
        answers: dict[str, Answers] = {}
        here = []
        for key in keys if number % 2 == 0 else list(reversed(keys)):
            about = {"form": form, "side": key, "title": TITLES[key], "round": number}
            if key in gone:
                here.append({**about, "status": NOT_REPEATED})
                continue
            out = scratch / f"{form}-{key}-{number}"
            here.append({**about, **measure(key, job_file, out, timeout)})
            print(json.dumps(here[-1]), flush=True)
            if here[-1]["status"] == FINISHED:
                answers[key] = json.loads((out / "answers.json").read_text())
            else:
                gone.add(key)
        for outcome in here:
            if outcome["side"] in answers and REFERENCE in answers:
                pairs = zip(answers[outcome["side"]], answers[REFERENCE], strict=True)
                outcome["same_texts"] = sum(a == b for a, b in pairs)
        outcomes += here
    return outcomes


def summarise(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row a form and side: medians over the rounds, and Tunesmith's ratio in each."""
    ours = {(o["form"], o["round"]): o for o in outcomes if o["side"] == OURS}
    rows = []
    for form, side in dict.fromkeys((o["form"], o["side"]) for o in outcomes):
        mine = [o for o in outcomes if (o["form"], o["side"]) == (form, side)]
        done = [o for o in mine if o["status"] == FINISHED]
        row: dict[str, Any] = {"form": form, "side": side, "title": mine[0]["title"]}
        if not done:
            rows.append(row | {name: mine[0][name] for name in ("status", "error")})
            continue
        row |= {"status": FINISHED, "rounds": len(done)}
        for name in ("generated_per_second", "seconds_to_finished", "peak_memory_bytes"):
            row[name] = spread([o[name] for o in done])
        row["generated_tokens"] = done[0]["generated_tokens"]
        row["same_texts"] = min((o["same_texts"] for o in done if "same_texts" in o), default=None)
        pairs = [(ours.get((form, o["round"]), {}), o) for o in done]
        pairs = [(a, b) for a, b in pairs if a.get("status") == FINISHED]
        if side != OURS and pairs:
            speed = "generated_per_second"
            row["speed_ratio"] = spread([a[speed] / b[speed] for a, b in pairs])
            whole = "seconds_to_finished"
            row["finished_ratio"] = spread([b[whole] / a[whole] for a, b in pairs])
        rows.append(row)
    return rows


def make_jobs(model: str, texts: int, limit: int) -> dict[str, Job]:
    """Return the job of each form: the prompts, as the model's chat template writes them."""
    from benchmarks.peers.encode import model_folder
    from transformers import AutoTokenizer

    folder = model_folder(model)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    prompts: list[list[int]] = []
    for record in fetch_instructions():
        text = "\n\n".join(part for part in (record["instruction"], record["input"]) if part)
        turn = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        if len(ids) <= 512 and ids not in prompts:
            prompts.append(ids)
    stop_ids = {"fixed": [], "answers": [tokenizer.eos_token_id]}
    return {form: Job(str(folder), prompts[:texts], limit, stop_ids[form]) for form in FORMS}


def write_f16(model: str, out: Path) -> None:
    """Write the GGUF file that a packaged model came in, expanded to float16.

    Raises:
        SystemExit: the model does not come as a GGUF file.
    """
    from benchmarks.f16_gguf import write

    from tunesmith.models import catalogue, fetch

    entry = catalogue.find(model)
    package = entry.package if entry else None
    files = [] if package is None else list(fetch._place(model, package).glob("*.gguf"))
    if not files:
        raise SystemExit(f"{model} does not come as a GGUF file; leave out --sides {LLAMA_CPP}")
    write(files[0], out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a name or a folder")
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--limit", type=int, default=64, help="most new tokens of a text")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--sides", nargs="*", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--timeout", type=float, default=400, help="seconds that a side may take")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "JOB", "OUT"), help="used inside")
    options = parser.parse_args()
    if options.side:
        key, job_file, out = options.side
        run_side(key, Job(**json.loads(Path(job_file).read_text())), Path(out))
        return
    about = machine()
    device = "cuda" if about["hardware"]["gpu"] else "cpu"
    name = options.model.replace("random:", "").replace("/", "-").strip("-")
    path = options.out or RESULTS / f"generation-{name}-{device}.json"
    jobs = make_jobs(options.model, options.texts, options.limit)
    report: dict[str, Any] = {
        "benchmark": "generation",
        **about,
        "device": device,
        "date": datetime.date.today().isoformat(),
        "command": command_line("benchmarks.generation"),
        "work": {
            "model": options.model,
            "texts": len(jobs["fixed"].prompts),
            "prompt_tokens": sum(map(len, jobs["fixed"].prompts)),
            "limit": options.limit,
            "together": TOGETHER,
        },
    }
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="tunesmith-generation-") as scratch:
        if LLAMA_CPP in options.sides:
            write_f16(options.model, Path(scratch) / F16)
        for form in options.forms:
            job_file = Path(scratch) / f"{form}.json"
            job_file.write_text(json.dumps(vars(jobs[form])))
            outcomes += rounds(
                form, options.sides, job_file, Path(scratch), options.rounds, options.timeout
            )
            report |= {"summary": summarise(outcomes), "outcomes": outcomes}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
