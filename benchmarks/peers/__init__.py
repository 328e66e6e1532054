"""Tunesmith against other fine-tuning tools: the same work, one run, one table.

    python -m benchmarks.peers lora        LoRA            tokens/s, time to finished, memory, loss
    python -m benchmarks.peers full        all weights     the same
    python -m benchmarks.peers qlora       LoRA on a 4-bit base (GPU)
    python -m benchmarks.peers head        a classifier on a frozen encoder, ten epochs

    work.py ──> job folder (model, token ids, settings)      the same for every side
    environments.py ──> one Python per peer, pinned          or the exact failure
    measure.py ──> each side as a fresh process, in turns ──> outcomes
    scoring.py ──> held-out loss of what each side saved, by transformers alone
    summary.py ──> medians, spreads, ratios ──> results/*.json ──> benchmarks/tables.py

What a peer is called with stands in `sides.py`; how it is called, in `runners/`, which run inside
the peers' own environments and import nothing of ours. The harness itself imports no torch: the
kernel counts a parent's memory towards a child's peak.
"""
