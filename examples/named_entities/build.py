"""Builds `train.jsonl` and `test.jsonl`: made-up news with persons, places, organisations.

In: the lists below. Out: records `{"text", "entities"}`, the same ones every time. **The data is
synthetic**: no person or organisation of it is meant to exist. From the repository's top:

    python -m examples.named_entities.build

Names and sentences of the test are in no training record, so that it asks for the place of a name
in a sentence and for the look of a name, not for remembered ones.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

SEED = 0
RECORDS = {"train": 360, "test": 120}
NAMES = {
    "train": {
        "PER": "Nora Lindqvist|Tomas Varga|Amara Diallo|Kenji Morita|Lucia Ferrante|Peter Hale"
        "|Ingrid Solberg|Rashid Khan|Marie Dubois|Oscar Brandt|Elena Petrova|Samuel Osei"
        "|Hannah Weiss|Diego Romero|Priya Nair|Jonas Keller",
        "LOC": "Osaka|Lisbon|Nairobi|Bergen|Montreal|Lima|Hamburg|Tallinn|Accra|Perth|Krakow"
        "|Valencia|Galway|Jaipur|Tromso|New Haven",
        "ORG": "Northwind Shipping|Helios Energy|Bluestone Bank|Orchard Foods|Kestrel Airlines"
        "|Meridian Press|Falkor Motors|Union of Dock Workers|Ministry of Fisheries"
        "|Cobalt Mining Group|Larkspur Institute|Atlas Insurance|Silverline Rail|Quill Publishing",
    },
    "test": {
        "PER": "Greta Holm|Victor Almeida|Sofia Marino|Daniel Okafor|Yuki Tanaka|Clara Novak"
        "|Ahmed Saleh|Laura Jensen",
        "LOC": "Porto|Kyoto|Gdansk|Mombasa|Halifax|Cork|Antwerp|Quito",
        "ORG": "Redwood Capital|Aurora Telecom|Harbor Trust|Ministry of Transport|Pioneer Steel"
        "|Willow Hospital Group|National Farmers Union|Zephyr Wind",
    },
}
SENTENCES = {
    "train": (
        "{PER} of {ORG} arrived in {LOC} on Monday.",
        "{ORG} will close its factory near {LOC}, said {PER}.",
        "In {LOC}, {PER} met with leaders of {ORG}.",
        "The court in {LOC} ruled against {ORG} on Friday.",
        "{PER} has lived in {LOC} since 1998.",
        "Shares of {ORG} fell by four percent after the report.",
        "{ORG} and {ORG} agreed to share the cost of the bridge.",
        "Thousands marched through {LOC} to protest against the new law.",
        '"We did not expect this," {PER} told reporters in {LOC}.',
        "{PER} and {PER} won the doubles in {LOC}.",
        "The new head of {ORG} is {PER}, a lawyer from {LOC}.",
        "No one was hurt when a train stopped in the tunnel.",
        "{PER}, 47, used to work for {ORG}.",
        "Heavy rain delayed flights from {LOC} to {LOC}.",
        "Prices rose again in the second quarter.",
    ),
    "test": (
        "On Tuesday {PER} opened the trade fair in {LOC}.",
        "{ORG} named {PER} as its next chairman.",
        "The strike at {ORG} spread to {LOC}.",
        "{PER} flew from {LOC} to {LOC} to sign the contract with {ORG}.",
        "According to {PER}, the talks with {ORG} failed.",
        "A storm hit the coast near {LOC} late at night.",
        "Critics of {ORG} include {PER} and {PER}.",
        "The weather stayed dry for most of the week.",
    ),
}
_SLOT = re.compile(r"\{(\w+)\}")


def main() -> None:
    """Write both files beside this one."""
    for place, part in enumerate(("train", "test")):
        draw = random.Random(SEED + place)
        seen: dict[str, dict[str, object]] = {}
        while len(seen) < RECORDS[part]:
            found = record(draw.choice(SENTENCES[part]), NAMES[part], draw)
            seen.setdefault(str(found["text"]), found)
        lines = (json.dumps(found, ensure_ascii=False) + "\n" for found in seen.values())
        (Path(__file__).parent / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{part}: {len(seen)} records")


def record(sentence: str, names: dict[str, str], draw: random.Random) -> dict[str, object]:
    """Fill a sentence with names, none twice, and say where they stand."""
    text, at = "", 0
    entities: list[dict[str, object]] = []
    used: set[str] = set()
    for slot in _SLOT.finditer(sentence):
        text += sentence[at : slot.start()]
        name = draw.choice([each for each in names[slot[1]].split("|") if each not in used])
        used.add(name)
        entities.append({"start": len(text), "end": len(text) + len(name), "label": slot[1]})
        text += name
        at = slot.end()
    return {"text": text + sentence[at:], "entities": entities}


if __name__ == "__main__":
    main()
