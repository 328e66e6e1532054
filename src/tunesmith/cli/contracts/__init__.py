"""What `--json` prints: one document a command, documented field by field.

A program may rely on these names and types within one `schema_version`; fields may be added. A
figure that is not known is null. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from tunesmith.cli.contracts.answers import ChatDocument, PredictDocument
from tunesmith.cli.contracts.check import CheckDocument
from tunesmith.cli.contracts.clean import CleanDocument
from tunesmith.cli.contracts.document import Document, ErrorDocument
from tunesmith.cli.contracts.files import (
    InitDocument,
    RecipeDocument,
    RecipeSchemaDocument,
    ReportDocument,
)
from tunesmith.cli.contracts.hardware import HardwareDocument
from tunesmith.cli.contracts.inspect import InspectDocument
from tunesmith.cli.contracts.models import ModelsDocument, PlaceDocument
from tunesmith.cli.contracts.outcome import EvaluateDocument, TrainDocument
from tunesmith.cli.contracts.plan import PlanDocument

DOCUMENTS: dict[str, type[Document]] = {
    "init": InitDocument,
    "models list": ModelsDocument,
    "models pull": PlaceDocument,
    "models where": PlaceDocument,
    "inspect": InspectDocument,
    "check": CheckDocument,
    "clean": CleanDocument,
    "plan": PlanDocument,
    "train": TrainDocument,
    "evaluate": EvaluateDocument,
    "predict": PredictDocument,
    "chat": ChatDocument,
    "report": ReportDocument,
    "bench hardware": HardwareDocument,
    "recipe schema": RecipeSchemaDocument,
    "recipe show": RecipeDocument,
    "any command that fails": ErrorDocument,
}
