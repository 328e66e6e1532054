"""Builds `train.jsonl` and `test.jsonl`: questions on contract clauses, answered by a part of them.

In: the lists below. Out: records as SQuAD 2.0 has them, the same ones every time; to one question
in five the clause has no answer. **The data is synthetic**: no such contracts or parties exist.
From the repository's top:

    python -m examples.contracts.build

Parties, amounts, periods and courts of the test are in no training record, so that the answer
has to be found in the clause.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

SEED = 0
CLAUSES = {"train": 120, "test": 44}
"""Clauses; each gives three questions."""
VALUES = {
    "train": {
        "a": "Aldermoor Ltd|Brightwater Inc|Castor Systems|Dunmore Foods|Evergreen Labs",
        "b": "Grovehill Partners|Hartwell Trading|Ivory Software|Jasper Logistics|Kingsbury Media",
        "period": "thirty days|sixty days|six months|twelve months|ten business days|two years",
        "notice": "fourteen days|ninety days|one month|three months|five business days",
        "fee": "USD 4,500|EUR 12,000|USD 950 a month|GBP 30,000|EUR 75 an hour",
        "cap": "USD 100,000|EUR 250,000|the fees paid in the last year|GBP 1,000,000",
        "law": "the State of New York|England and Wales|Ireland|the Province of Ontario|Germany",
        "court": "the courts of London|the courts of Dublin|an arbitrator in Geneva",
    },
    "test": {
        "a": "Larkfield Group|Mossgate Ltd|Northbrook Inc",
        "b": "Oakhurst Services|Pemberton Digital|Quarry Lane Co",
        "period": "forty-five days|eighteen months|three years",
        "notice": "twenty-one days|two months|seven business days",
        "fee": "USD 7,200|EUR 1,300 a month|GBP 88 an hour",
        "cap": "USD 400,000|twice the yearly fee",
        "law": "the State of Delaware|Scotland|Denmark",
        "court": "the courts of Edinburgh|an arbitrator in Vienna|the courts of Copenhagen",
    },
}
SENTENCES = {
    "fee": ("{a} shall pay {b} {fee} for the services.", "The price of the services is {fee}."),
    "due": (
        "Invoices are due within {period} of receipt.",
        "Payment shall be made no later than {period} after the invoice date.",
    ),
    "term": (
        "This agreement remains in force for {period} from its signature.",
        "The initial term of this agreement is {period}.",
    ),
    "end": (
        "Either party may terminate it by giving {notice} written notice.",
        "{a} may end this agreement with {notice} notice in writing.",
    ),
    "cap": (
        "The liability of {b} is limited to {cap}.",
        "In no event shall {b} be liable for more than {cap}.",
    ),
    "law": (
        "This agreement is governed by the laws of {law}.",
        "The laws of {law} apply to this agreement.",
    ),
    "court": (
        "Disputes shall be settled by {court}.",
        "Any dispute that arises from it is referred to {court}.",
    ),
}
QUESTIONS = {
    "fee": ("fee", ("How much is to be paid for the services?", "What is the price?")),
    "due": ("period", ("When are invoices due?", "How long is the time for payment?")),
    "term": ("period", ("How long does the agreement last?", "What is the term?")),
    "end": ("notice", ("How much notice ends the agreement?", "What is the notice period?")),
    "cap": ("cap", ("To what is liability limited?", "What is the cap on liability?")),
    "law": ("law", ("Which law governs the agreement?", "Whose laws apply?")),
    "court": ("court", ("Who settles disputes?", "Where are disputes decided?")),
}
_SLOT = re.compile(r"\{(\w+)\}")


def main() -> None:
    """Write both files beside this one."""
    for place, part in enumerate(("train", "test")):
        draw = random.Random(SEED + place)
        found: list[dict[str, object]] = []
        seen: set[str] = set()
        while len(seen) < CLAUSES[part]:
            records = clause(VALUES[part], draw)
            if str(records[0]["context"]) not in seen:
                seen.add(str(records[0]["context"]))
                found += records
        lines = (json.dumps(record) + "\n" for record in found)
        (Path(__file__).parent / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{part}: {len(found)} records")


def clause(values: dict[str, str], draw: random.Random) -> list[dict[str, object]]:
    """Return three questions on one clause of four sentences; one in five finds no answer."""
    topics = draw.sample(sorted(SENTENCES), 4)
    parties = {name: draw.choice(values[name].split("|")) for name in ("a", "b")}
    context, places = "", {}
    for topic in topics:
        sentence = draw.choice(SENTENCES[topic])
        own = {name: draw.choice(options.split("|")) for name, options in values.items()} | parties
        wanted = QUESTIONS[topic][0]
        begin = len(context)
        for piece in re.split(r"(\{\w+\})", sentence):
            slot = _SLOT.fullmatch(piece)
            if slot and slot[1] == wanted:
                places[topic] = (own[wanted], len(context))
            context += own[slot[1]] if slot else piece
        assert len(context) > begin
        context += " "
    absent = [topic for topic in SENTENCES if topic not in topics]
    asked = [draw.choice(absent) if draw.random() < 0.2 else topic for topic in topics[:3]]
    return [
        {
            "context": context.strip(),
            "question": draw.choice(QUESTIONS[topic][1]),
            "answers": {
                "text": [places[topic][0]] if topic in places else [],
                "answer_start": [places[topic][1]] if topic in places else [],
            },
        }
        for topic in dict.fromkeys(asked)
    ]


if __name__ == "__main__":
    main()
