"""Tables and plots of the README from the results: `python -m benchmarks.tables`.

Each results file is written between two marks of `benchmarks/README.md`, with its plot beside it:

    <!-- results: peers-lora-smollm2-135m-instruct-cpu --> … <!-- end -->

A file that has no marks yet gets them at the end. No table is written by hand; a side that failed
has its row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import (
    GIB,
    Report,
    failure_note,
    job_line,
    machine_line,
    number,
    refusals,
    table,
    times,
)

HERE = Path(__file__).parent
_MARKS = re.compile(r"<!-- results: (?P<name>[\w.-]+) -->\n.*?<!-- end -->\n", re.DOTALL)


def peers_table(report: Report) -> str:
    """One row a side: what it took, and how many times Tunesmith's it is."""
    head = report["work"]["kind"] == "head"
    gpu = any("gpu_peak_bytes" in row for row in report["summary"])
    header = ["side", *([] if head else ["tokens/s"]), "to finished (s)", "peak memory (GiB)"]
    header += ["GPU memory (GiB)"] if gpu else []
    graded = any("held_out_accuracy" in row for row in report["summary"])
    header += ["held-out loss", *(["accuracy"] if graded else [])]
    header += [] if head else ["trained texts" if graded else "trained tokens"]
    header += [] if head else ["Tunesmith is faster, tokens/s"]
    header += ["Tunesmith is faster, to finished"]
    header += ["Tunesmith's peak memory"]
    rows = []
    for row in report["summary"]:
        if "seconds_to_finished" not in row:
            rows.append([row["title"], *["–"] * (len(header) - 2), row["status"]])
            continue
        cells = [row["title"]]
        cells += [] if head else [number(row.get("tokens_per_second"))]
        cells += [number(row["seconds_to_finished"]), number(row["peak_memory_bytes"], ".1f", GIB)]
        cells += [number(row.get("gpu_peak_bytes"), ".1f", GIB)] if gpu else []
        cells += [number(row.get("held_out_loss"), ".3f")]
        cells += [number(row.get("held_out_accuracy"), ".3f")] if graded else []
        cells += [] if head else [_targets(row, report), times(row.get("speed_ratio"))]
        cells += [times(row.get("finished_ratio")), times(row.get("memory_ratio"))]
        rows.append(cells)
    failures = [failure_note(row) for row in report["summary"] if "error" in row]
    failures += [
        f"{row['title']}: {note}."
        for row in report["summary"]
        for note in row.get("notes", ())
        if "error" not in row
    ]
    return "\n\n".join([job_line(report), table(header, rows), *failures, *refusals(report)])


def _targets(row: Report, report: Report) -> str:
    if row.get("same_targets") is None:
        return "–"
    count = f"{row['targets']:,}, " if "targets" in row else ""
    return "the same" if row["same_targets"] else f"{count}**not the same**"


def ladder_table(report: Report) -> str:
    """One row a rung: its own gain, and the whole."""
    header = ["rung", "tokens/s", "× the first", "× the one before", "to finished (s)"]
    header += ["peak memory (GiB)", "loss of the last step"]
    rows = []
    for row in report["summary"]:
        if "tokens_per_second" not in row:
            rows.append([row["title"], *["–"] * (len(header) - 2), row["status"]])
            continue
        gains = [f"{row[name]:.2f}" if name in row else "1" for name in ("of_first", "of_before")]
        rows.append(
            [
                row["title"],
                number(row["tokens_per_second"]),
                *gains,
                number(row.get("seconds_to_finished")),
                number(row["peak_memory_bytes"], ".2f", GIB),
                number(row.get("last_loss"), ".4f"),
            ]
        )
    return f"{job_line(report)}\n\n{table(header, rows)}"


_AXES = {
    "length": ("length", "tokens a document"),
    "batch": ("documents", "documents of a micro-batch"),
    "model": ("model", "model"),
    "cores": ("threads", "threads"),
}


def scaling_table(report: Report) -> str:
    """A table a curve."""
    parts = [f"{machine_line(report['hardware'])}, {report['date']}, `{report['command']}`."]
    for name, points in report["curves"].items():
        key, label = _AXES[name]
        rows = [
            [
                str(point[key]).removeprefix("random:"),
                f"{point['tokens_per_second']:.0f}" if point.get("tokens_per_second") else "–",
                f"{point['peak_memory_bytes'] / GIB:.2f}",
                "" if point["status"] == "finished" else point["status"],
            ]
            for point in points
        ]
        parts.append(table([label, "tokens/s", "peak memory (GiB)", ""], rows))
    return "\n\n".join(parts)


def techniques_table(report: Report) -> str:
    """A table a job: what each technique brought, what it cost and what it forgot."""
    hardware = report["hardware"]
    parts = [f"{hardware['cpu']}, {hardware['threads']} threads."]
    for job in dict.fromkeys(row["job"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["job"] == job]
        first = rows[0]
        about = (
            f"**{job}**: {first['metric']} on {first['n']} records, {first['before']:.3f} before"
        )
        header = ["technique", "after", "95% interval of the difference", "verdict"]
        header += ["general text, perplexity", "learns", "seconds", "peak memory (GiB)"]
        parts += [about, table(header, [_technique_row(row) for row in rows])]
    return "\n\n".join(parts)


def _technique_row(row: Report) -> list[str]:
    low, high = row["interval"]
    return [
        row["technique"],
        f"{row['after']:.3f}",
        f"{low:+.3f} to {high:+.3f}",
        row["verdict"],
        _forgotten(row["general"]),
        f"{row['trainable_parameters']:,}",
        f"{row['seconds']:.0f}",
        f"{row['peak_memory_bytes'] / GIB:.1f}",
    ]


def _forgotten(probe: Mapping[str, Any] | None) -> str:
    if probe is None:
        return "–"
    told = ", worse" if probe["worse"] else ""
    return f"{probe['before']:.2f} → {probe['after']:.2f}{told}"


_WORK_TITLES = {
    "preferences": "DPO: 8 pairs that share their prompts, LoRA on SmolLM2-135M",
    "rollouts": "A policy gradient: 4 prompts with 8 answers each, LoRA on SmolLM2-135M",
    "t5": "Encoder-decoder of T5-small's shape, all weights: 32 pairs",
    "marian": "Encoder-decoder of OPUS-MT's shape, all weights: 32 pairs",
}


def verbs_table(report: Report) -> str:
    """A table a kind of work: both sides of one step, as `verbs.py` measured them."""
    hardware = report["hardware"]
    parts = [
        f"{report['steps']} steps, the first left out. {hardware['cpu']}, {hardware['threads']}"
        f" threads, {', '.join(hardware['features'])}, {report['date']}, `{report['command']}`."
    ]
    header = ["side", "tokens/s", "peak memory (GiB)", "loss of the last step"]
    header += ["Tunesmith is faster"]
    for kind in dict.fromkeys(row["kind"] for row in report["summary"]):
        rows = [
            [
                row["title"],
                number(row.get("tokens_per_second")),
                number(row.get("peak_memory_bytes"), ".1f", GIB),
                number(row.get("last_loss"), ".4f"),
                times(row.get("faster")) if row["status"] == "finished" else row["status"],
            ]
            for row in report["summary"]
            if row["kind"] == kind
        ]
        parts += [f"**{_WORK_TITLES[kind]}**", table(header, rows)]
    return "\n\n".join(parts)


def generation_table(report: Report) -> str:
    """A table a form: every side's tokens a second, and how many texts came out the same."""
    work = report["work"]
    parts = [
        f"{work['texts']} prompts of {work['prompt_tokens']:,} tokens for {work['model']}, at most"
        f" {work['limit']} new tokens each, {work['together']} texts at a time, float32."
        f" {machine_line(report['hardware'])}, {report['date']}, `{report['command']}`."
    ]
    header = ["side", "tokens/s", "to finished (s)", "peak memory (GiB)", "new tokens"]
    header += ["same texts as `generate`", "Tunesmith is faster, tokens/s"]
    header += ["Tunesmith is faster, to finished"]
    for form in dict.fromkeys(row["form"] for row in report["summary"]):
        mine = [row for row in report["summary"] if row["form"] == form]
        rows = []
        for row in mine:
            if "generated_per_second" not in row:
                rows.append([row["title"], *["–"] * (len(header) - 2), row["status"]])
                continue
            same = row.get("same_texts")
            cells = [row["title"], number(row["generated_per_second"])]
            cells += [number(row["seconds_to_finished"])]
            cells += [number(row["peak_memory_bytes"], ".1f", GIB)]
            cells += [f"{row['generated_tokens']:,}"]
            cells += ["–" if same is None else f"{same} of {work['texts']}"]
            cells += [times(row.get("speed_ratio")), times(row.get("finished_ratio"))]
            rows.append(cells)
        parts += [f"**{_GENERATION[form]}**", table(header, rows)]
        parts += [failure_note(row) for row in mine if "error" in row]
    return "\n\n".join(parts)


_GENERATION = {
    "fixed": "Every text gets the same number of new tokens",
    "answers": "Texts end where the model ends them",
}


def memory_table(report: Report) -> str:
    """Predicted and measured peaks, case by case; then the largest micro-batches that fit."""
    header = ["model", "technique", "micro-batch"]
    rows: dict[bool, list[list[str]]] = {False: [], True: []}
    for case in report["cases"]:
        technique = ", ".join(f"{key}: {value}" for key, value in case["training"].items())
        name = case["technique"]["name"] + (f" ({technique})" if technique else "")
        name += f", {case['checkpointed']} layers twice" if case["checkpointed"] else ""
        row = [case["model"].removeprefix("random:"), name]
        row.append(f"{case['documents']} × {case['length']} tokens")
        budget = case.get("budget")
        first, last = ("budget", "whole") if budget else ("predicted", "measured")
        if case["status"] != "finished":
            row += ["–", "–", case["status"]]
        else:
            off = case[last] / budget if budget else case[first] / case[last] - 1
            row += [f"{case[k] / 1e9:.2f}" for k in (first, last)]
            row.append(f"{off:.0%}" if budget else f"{off:+.0%}")
        rows[bool(budget)].append(row)
    parts = [f"{machine_line(report['hardware'])}, {report['date']}, `{report['command']}`."]
    parts.append(table([*header, "predicted (GB)", "measured (GB)", "predicted is"], rows[False]))
    if rows[True]:
        parts.append("The largest micro-batch that is predicted to fit a budget:")
        fits = ["budget (GB)", "the process's peak (GB)", "of the budget"]
        parts.append(table([*header, *fits], rows[True]))
    return "\n\n".join(parts)


def wrong_labels_table(report: Report) -> str:
    """What was found of flipped labels, and what cleaning them brought; means over the rounds."""
    rounds = report["rounds"]

    def average(parts: Sequence[Report], figure: str) -> float:
        return sum(one[figure] for one in parts) / len(parts)

    which = {"all that `check --deep` names": [one["all"] for one in rounds]}
    for level in rounds[0]["sure"]:
        which[f"of these, with `clean --sure {level}`"] = [one["sure"][level] for one in rounds]
    found = [
        [
            title,
            f"{average(parts, 'found'):.0f}",
            f"{average(parts, 'recall'):.0%}",
            f"{average(parts, 'precision'):.0%}",
        ]
        for title, parts in which.items()
    ]
    accuracies = [one["accuracy"] for one in rounds]
    learnt = [[name, f"{average(accuracies, name):.1%}"] for name in accuracies[0]]
    flipped = sum(one["flipped"] for one in rounds) / len(rounds)
    return "\n\n".join(
        [
            f"{report['records']:,} sentences, {flipped:.0f} labels flipped, {len(rounds)} draws;"
            f" vectors of {report['encoder']}; {report['date']}, `{report['command']}`.",
            table(["labels", "found", "recall", "precision"], found),
            table(["learnt from", f"accuracy on {report['tested']} test sentences"], learnt),
        ]
    )


_TABLES: dict[str, Callable[[Report], str]] = {
    "generation": generation_table,
    "peers": peers_table,
    "ladder": ladder_table,
    "scaling": scaling_table,
    "techniques": techniques_table,
    "verbs": verbs_table,
    "memory": memory_table,
    "wrong_labels": wrong_labels_table,
}


def section(path: Path) -> str | None:
    """Return what the README shows of one results file; None where it is no kind of ours."""
    from benchmarks.plots import plot

    report = json.loads(path.read_text(encoding="utf-8"))
    kind = report.get("benchmark", path.stem) if isinstance(report, dict) else ""
    if kind not in _TABLES:
        return None
    shown = _TABLES[kind](report)
    picture = plot(kind, report, path.with_suffix(".svg"))
    return f"{shown}\n\n![{path.stem}]({picture})" if picture else shown


def regenerate(readme: Path, results: Path) -> str:
    """Return the README with every results file's section made anew."""
    text = readme.read_text(encoding="utf-8")
    for path in sorted(results.glob("*.json")):
        shown = section(path)
        if shown is None:
            continue
        block = f"<!-- results: {path.stem} -->\n{shown}\n<!-- end -->\n"
        found = [mark for mark in _MARKS.finditer(text) if mark["name"] == path.stem]
        for mark in found:
            text = text[: mark.start()] + block + text[mark.end() :]
        if not found:
            text = f"{text.rstrip()}\n\n## {path.stem}\n\n{block}"
    return text


def main() -> None:
    readme = HERE / "README.md"
    readme.write_text(regenerate(readme, HERE / "results"), encoding="utf-8")
    print(f"wrote {readme.name}")


if __name__ == "__main__":
    main()
