"""Says in words how much of what the machine can do went into the model (MFU).

In: the figures of a run. Out: sentences, none where it was not measured. The formula stands in
`models/flops.py`, what it means for those who never heard of it in `docs/how-to/read-the-speed.md`.
"""

from __future__ import annotations

from tunesmith.evidence.figures import rate, share
from tunesmith.evidence.files import RoofFacts, Summary


def utilisation(summary: Summary) -> str | None:
    """Return what the utilisation of this run was, of what, and how far to trust it."""
    roof, mfu = summary.roof, summary.mfu
    if roof is None or mfu is None:
        return None
    used = rate(mfu * roof.flops_per_second, "FLOP/s")
    return " ".join(
        [
            f"Model FLOPs utilisation (MFU) was {share(mfu)}: of the"
            f" {rate(roof.flops_per_second, 'FLOP/s')} that this machine reached in products of"
            f" matrices alone ({_with(roof)}), {used} went into the model's own arithmetic, forward"
            " and backward. The rest of the time went into moving data, small operations, the"
            " optimiser and waiting. Large models and long documents come closer to the rate than"
            " small ones.",
            _measured(roof),
            *_doubts(roof, mfu),
        ]
    )


def _with(roof: RoofFacts) -> str:
    if roof.threads is None:
        return f"{roof.dtype}, on the GPU"
    return f"{roof.dtype}, {roof.threads} thread{'s' * (roof.threads != 1)}"


def _measured(roof: RoofFacts) -> str:
    if roof.source == "kept":
        return f"That rate was measured with `tunesmith bench hardware` on {roof.measured[:10]}."
    return (
        "The run measured that rate itself, for half a second at its start;"
        " `tunesmith bench hardware` measures it better, once for all runs."
    )


def _doubts(roof: RoofFacts, mfu: float) -> list[str]:
    if mfu > 1:
        return [
            "No training can do more than products of matrices alone: the rate must have been"
            " measured while something else used the machine. Measure it again."
        ]
    if roof.busy:
        return [
            "Other programs used the machine while it was measured: the rate is lower than the"
            " machine's own, and the utilisation looks higher than it was."
        ]
    return []
