"""Builds `train.csv` and `test.csv`: lines of bank statements, made up, and what they were for.

In: the lists below. Out: CSV files with the columns `text` and `label`, the same ones every time.
**The data is synthetic**: no account, shop or payment of it exists. From the repository's top:

    python -m examples.financial.build

Payees of the test are in no training line, and so are the ways in which a line is written, so that
the test asks for the meaning of a name that was not learnt.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

SEED = 0
PAYEES = {
    "groceries": (
        "Green Basket Supermarket|Corner Greengrocer|Daily Bread Bakery|Harbour Fishmonger"
        "|Valley Farm Shop|Budget Food Market|Whole Grain Store|Butcher and Sons",
        "Sunny Hill Organic Foods|Village Cheese Counter|Fruit and Vegetable Hall",
    ),
    "eating out": (
        "Pizzeria Roma|Blue Lantern Noodle Bar|Cafe Morning|The Old Oak Pub|Sushi Corner"
        "|Burger Yard|Tapas de Luna|Curry House Palace",
        "Espresso Bar Nove|Ramen Kitchen|The Steak Tavern",
    ),
    "transport": (
        "City Metro Tickets|Northern Railways|Rapid Taxi|Fuel Stop Petrol Station|Bike Share Club"
        "|Airport Bus Line|Riverside Parking|Toll Road Company",
        "Coastal Ferry Line|Diesel and Go|Tram Day Pass",
    ),
    "housing": (
        "Maple Street Rent|Home Owners Association|Mortgage Payment|Bright Power Electricity"
        "|Municipal Water Works|District Heating Company|Gas Supply Services|Roof Repair Company",
        "Monthly Flat Rental|Electric Grid Supplier|Sewage and Water Board",
    ),
    "health": (
        "Station Pharmacy|Doctor Hale Surgery|Smile Dental Practice|Vision Opticians"
        "|Physiotherapy Rooms|Saint Mary Hospital|Blood Test Laboratory|Hearing Aid Centre",
        "Orthodontist Clinic|Night Chemist|Eye Doctor Practice",
    ),
    "leisure": (
        "Grand Cinema|Film Streaming Monthly|City Theatre Box Office|Fitness Studio Fee"
        "|Music Streaming Family|Swimming Pool Season Ticket|Museum of Art|Online Video Games",
        "Opera House Tickets|Climbing Gym|Comic Book Shop",
    ),
    "income": (
        "Salary March|Wages Payroll Department|Tax Refund Revenue Office|Dividend Payment"
        "|Pension Fund Benefit|Freelance Invoice Paid|Child Benefit Office|Interest on Savings",
        "Monthly Pay from Employer|Bonus Payment Payroll|Refund of Overpaid Tax",
    ),
    "insurance": (
        "Safe Drive Car Insurance|Home Contents Policy|Life Cover Premium|Travel Insurance Annual"
        "|Liability Insurance|Pet Insurance Plan|Legal Protection Policy|Bicycle Theft Cover",
        "Motor Vehicle Policy Premium|Accident Cover Plan|Building Insurance Annual",
    ),
}
FORMS = {
    "train": (
        "CARD PAYMENT {payee} {date}",
        "{payee} REF {number}",
        "DIRECT DEBIT {payee} MANDATE {number}",
        "{payee}, {date}, contactless",
    ),
    "test": ("POS {number} {payee} THANK YOU", "Standing order to {payee} on {date}"),
}
CREDITS = {
    "train": ("CREDIT TRANSFER {payee} {date}", "{payee} REF {number}", "Received: {payee} {date}"),
    "test": ("INCOMING {number} {payee}", "Credit from {payee} on {date}"),
}
TIMES = {"train": 2, "test": 4}
"""How often each payee appears in each form."""


def main() -> None:
    """Write both files beside this one."""
    for place, part in enumerate(("train", "test")):
        draw = random.Random(SEED + place)
        records = [
            (line(form, payee, draw), label)
            for label, payees in PAYEES.items()
            for payee in payees[place].split("|")
            for form in (CREDITS if label == "income" else FORMS)[part]
            for _ in range(TIMES[part])
        ]
        draw.shuffle(records)
        path = Path(__file__).parent / f"{part}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("text", "label"))
            writer.writerows(records)
        print(f"{part}: {len(records)} records")


def line(form: str, payee: str, draw: random.Random) -> str:
    """Write one line of a statement, as banks do: in capitals, or not."""
    date = f"{draw.randint(1, 28):02d}.{draw.randint(1, 12):02d}."
    text = form.format(payee=payee, date=date, number=draw.randint(10_000, 99_999))
    return text.upper() if draw.random() < 0.5 else text


if __name__ == "__main__":
    main()
