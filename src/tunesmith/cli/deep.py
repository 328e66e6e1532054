"""What `check --deep` found, in the terminal: a table of kinds, and the clearest of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.cli.contracts.check import DeepDetails
    from tunesmith.console import Console

_LISTED = 5
_TEXT = 80


def describe_deep(deep: DeepDetails, say: Console) -> None:
    """Say what was looked for, what was found, and how languages are mixed."""
    from tunesmith.evidence.figures import count, label, share

    say.note("")
    say.table(
        "A close look",
        ["kind", "looked at", "found", "share", ""],
        [
            [
                label(look.kind),
                count(look.records),
                count(look.found) if look.records else "–",
                share(look.found / look.records) if look.records else "–",
                look.remark,
            ]
            for look in deep.looks
        ],
    )
    mixed = ", ".join(f"{name} {count(number)}" for name, number in deep.languages.items())
    say.note(f"Languages: {mixed}")
    for look in deep.looks:
        _clearest(deep, look.kind, say)


def _clearest(deep: DeepDetails, kind: str, say: Console) -> None:
    from tunesmith.evidence.figures import label

    found = [finding for finding in deep.findings if finding.kind == kind]
    if not found:
        return
    say.note(f"\n{label(kind).capitalize()}: {len(found)}")
    for finding in found[:_LISTED]:
        say.note(f"  {finding.part} {finding.origin}: {finding.reason}")
        line = " ".join(finding.text.split())
        say.note(f"    {line[:_TEXT]}{'…' if len(line) > _TEXT else ''}")
    if len(found) > _LISTED:
        say.note(f"  … and {len(found) - _LISTED} more (--json lists all, --html shows them)")
