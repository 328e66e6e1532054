"""Builds `train.jsonl` and `test.jsonl`: chats with the assistant of a bicycle shop, made up.

In: the lists below. Out: chats in OpenAI's format, the same ones every time. **The data is
synthetic**: there is no such shop. Run it from the top of the repository:

    python -m examples.chatbot.build

Every topic is asked for in ways of its own in the test; the facts are those that were taught, as
a shop wants it. Half of the chats have two questions.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 0
SYSTEM = "You are Robin, the assistant of Linden Bikes."
RECORDS = {"train": 120, "test": 48}
TOPICS = {
    "We are open from nine to six, Monday to Saturday.": (
        "When are you open?|What are your opening hours?|Are you open on Saturday?",
        "Until what time can I come by today?|Can I visit on a Friday evening at five?",
    ),
    "The shop is at 12 Linden Street, behind the old station.": (
        "Where is your shop?|What is your address?|How do I find you?",
        "Which street are you in?|Are you near the station?",
    ),
    "A service costs 65 euros and takes two days.": (
        "How much is a service?|What does it cost to service a bike?|How long does a service take?",
        "What will I pay for a check of my bike?|When do I get my bike back from service?",
    ),
    "You can bring a bike back within 30 days if it was not ridden in the rain.": (
        "Can I return a bike?|What is your return policy?|How long do I have to bring it back?",
        "I do not like my new bike. What now?|Is it possible to hand back a bike?",
    ),
    "We deliver within the city for 15 euros, usually on the next day.": (
        "Do you deliver?|What does delivery cost?|How fast is delivery?",
        "Can you bring the bike to my home?|How much is it to send a bike?",
    ),
    "Frames have a warranty of ten years, all other parts of two.": (
        "How long is the warranty?|Is the frame guaranteed?|What does the warranty cover?",
        "My frame broke after four years. Is that covered?|For how long are parts guaranteed?",
    ),
    "You can hire a bike for 18 euros a day; a helmet comes with it.": (
        "Can I rent a bike?|What does it cost to hire a bike?|Do you have bikes for a day?",
        "I need a bike for the weekend only.|What is the price of hiring?",
    ),
    "We take cards and cash, and larger sums in six parts.": (
        "How can I pay?|Do you accept cards?|Can I pay in parts?",
        "Is cash all right?|May I pay for a bike monthly?",
    ),
}
GREETINGS = ("", "Hello! ", "Hi, ", "Good morning. ")


def main() -> None:
    """Write both files beside this one."""
    for place, part in enumerate(("train", "test")):
        draw = random.Random(SEED + place)
        chats: dict[str, list[dict[str, str]]] = {}
        while len(chats) < RECORDS[part]:
            topics = draw.sample(sorted(TOPICS), draw.choice((1, 2)))
            turns = [{"role": "system", "content": SYSTEM}]
            for number, answer in enumerate(topics):
                asked = draw.choice(TOPICS[answer][place].split("|"))
                greeting = draw.choice(GREETINGS) if number == 0 else ""
                turns.append({"role": "user", "content": greeting + asked})
                turns.append({"role": "assistant", "content": answer})
            chats[json.dumps(turns)] = turns
        lines = (json.dumps({"messages": turns}) + "\n" for turns in chats.values())
        (Path(__file__).parent / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{part}: {len(chats)} records")


if __name__ == "__main__":
    main()
