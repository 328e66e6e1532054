"""What is known of a task before any model: its options, without loading torch."""

from __future__ import annotations

import subprocess
import sys


def test_option_models_load_no_torch():
    code = (
        "import sys; from tunesmith.registry import TASKS\n"
        "assert set(TASKS.names()) >= {'instruct', 'language_modeling', 'classification'}\n"
        "[TASKS.get(name).Options.model_json_schema() for name in TASKS.names()]\n"
        "heavy = {'torch', 'transformers', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_option_says_what_it_is():
    from tunesmith.registry import TASKS

    for task in TASKS:
        for name, field in task.Options.model_fields.items():
            assert field.description, f"{task.name}.{name}"
