"""A training loop of one's own, in Tunesmith's verbs. Run it from the top of the repository."""

import math
import sys

import tunesmith

RECORDS = int(sys.argv[1]) if len(sys.argv) > 1 else 160
PEAK_RATE = 1e-3

engine, task = tunesmith.load("smollm2-135m-instruct", technique={"name": "lora", "rank": 16})
records = tunesmith.read("examples/interface_translation/train.jsonl", task)
plan = tunesmith.plan(task, records.take(range(RECORDS)), batch_size=8)
objective = tunesmith.objective(task)

for number, step in enumerate(plan):
    loss = 0.0
    for batch in step:
        terms, _ = engine.forward_backward(batch, objective, step.counts)
        loss += sum(terms.values())
    rate = PEAK_RATE * (1 + math.cos(math.pi * number / len(plan))) / 2
    norm = engine.optimizer_step(learning_rate=rate)
    print(f"step {number + 1:3}  loss {loss:.3f}  gradient norm {norm:.2f}  {step.tokens} tokens")

question = "Translate this interface text into French.\n\nThis field is required."
print(task.predict(engine, [question])[0].text)
