"""What is where in a model: `study(module)` gives the one list of names that all else asks."""

from tunesmith.models.anatomy.anatomy import Anatomy, Layer
from tunesmith.models.anatomy.study import study

__all__ = ["Anatomy", "Layer", "study"]
