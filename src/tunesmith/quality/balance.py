"""Counts the classes of labelled records, and says where their balance makes learning hard.

Where records hold entities, these are counted; where a record has several classes, each of them.

train, test labels ──class_balance──> ClassBalance
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from tunesmith.data.records import MultiLabelledText, TaggedText, labels_of

FEW = 5
"""Fewer training records than this are too few to learn a class from."""
LOPSIDED = 10.0
"""From this ratio of the largest to the smallest class on, a warning."""


@dataclass(frozen=True)
class ClassBalance:
    """How many records each class has.

    Attributes:
        train: records by class in train, the largest first.
        test: records by class in test.
        of_entities: entities are counted, of which a record may have any number.
        several: a record may have any number of classes.
    """

    train: dict[str, int]
    test: dict[str, int]
    of_entities: bool = False
    several: bool = False

    @property
    def ratio(self) -> float:
        """The largest class of train over its smallest."""
        return max(self.train.values()) / min(self.train.values()) if self.train else 1.0

    @property
    def majority(self) -> float:
        """Accuracy on test of always answering with the largest class of train."""
        if not self.train or not self.test:
            return 0.0
        largest = max(self.train, key=lambda name: self.train[name])
        return self.test.get(largest, 0) / sum(self.test.values())

    @property
    def rare(self) -> list[str]:
        """Classes with too few training records."""
        return [name for name, count in self.train.items() if count < FEW]

    @property
    def unlearnt(self) -> list[str]:
        """Classes of test that train does not have."""
        return [name for name in self.test if name not in self.train]

    @property
    def untested(self) -> list[str]:
        """Classes of train that test does not have: nothing will be known of them."""
        return [name for name in self.train if name not in self.test] if self.test else []

    @property
    def _counted(self) -> str:
        return "entities" if self.of_entities else "records"

    def warnings(self) -> list[str]:
        """Return a sentence for each thing that makes learning or testing hard."""
        said: list[str] = []
        if self.ratio >= LOPSIDED:
            judged = (
                "by the F1 of each, or macro F1"
                if self.of_entities or self.several
                else f"by macro F1, not by accuracy (always the largest class is "
                f"{self.majority:.0%})"
            )
            said.append(
                f"The largest class has {self.ratio:.0f} times the {self._counted} of the "
                f"smallest: judge {judged}."
            )
        if self.rare:
            said.append(f"Fewer than {FEW} training {self._counted}: {_listed(self.rare)}.")
        if self.unlearnt:
            said.append(f"In test but not in train: {_listed(self.unlearnt)}.")
        if self.untested:
            said.append(f"In train but not in test: {_listed(self.untested)}.")
        return said


def class_balance(train: Sequence[BaseModel], test: Sequence[BaseModel] = ()) -> ClassBalance:
    """Return the class counts of labelled records."""
    of_entities = any(isinstance(record, TaggedText) for record in train)
    several = any(isinstance(record, MultiLabelledText) for record in train)
    return ClassBalance(_counts(train), _counts(test), of_entities, several)


def _counts(records: Sequence[BaseModel]) -> dict[str, int]:
    labels = Counter(label for record in records for label in labels_of(record))
    return dict(sorted(labels.items(), key=lambda item: (-item[1], item[0])))


def _listed(names: Sequence[str], shown: int = 5) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
