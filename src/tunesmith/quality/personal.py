"""Finds personal data and secrets in texts by their form, and puts their kind in their place.

    text ──find_personal──> [Match(kind, start, end)]     text ──redact──> "write to [EMAIL]"

What can be checked is checked: the check digits of cards (Luhn) and of IBANs (ISO 13616, modulo
97), the ranges of IP addresses. Addresses that are reserved for examples (RFC 2606, RFC 5737,
private networks) are nobody's. Names and places have no form: they are not found here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_RESERVED = re.compile(r"@(?:.*\.)?(?:example\.(?:com|org|net)|test|invalid|localhost|example)$")
_SEPARATORS = re.compile(r"[^0-9A-Za-z]")


@dataclass(frozen=True)
class Match:
    """Where something of a kind stands in a text, from character `start` to before `end`."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class _Form:
    kind: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool]


def find_personal(text: str) -> list[Match]:
    """Return what of a text has the form of personal data or of a secret, in order."""
    taken: list[Match] = []
    for form in _FORMS:  # the surer first: a card is no telephone number
        for hit in form.pattern.finditer(text):
            free = all(hit.end() <= one.start or hit.start() >= one.end for one in taken)
            if free and form.holds(hit[0]):
                taken.append(Match(form.kind, hit.start(), hit.end()))
    return sorted(taken, key=lambda one: one.start)


def redact(text: str) -> tuple[str, list[str]]:
    """Return the text with the kind of each find in its place, and these kinds."""
    parts, at = [], 0
    found = find_personal(text)
    for one in found:
        parts += [text[at : one.start], f"[{PLACEHOLDERS[one.kind]}]"]
        at = one.end
    return "".join([*parts, text[at:]]), [one.kind for one in found]


def redact_all(value: object) -> tuple[object, list[str]]:
    """Redact every text within lists and objects; returns the same shape, and the kinds found."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list | tuple):
        pairs = [redact_all(item) for item in value]
        return [item for item, _ in pairs], [kind for _, kinds in pairs for kind in kinds]
    if isinstance(value, dict):
        fields = {name: redact_all(item) for name, item in value.items()}
        kinds = [kind for _, found in fields.values() for kind in found]
        return {name: item for name, (item, _) in fields.items()}, kinds
    return value, []


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others (ISO/IEC 7812)."""
    total = 0
    for place, character in enumerate(reversed(digits)):
        value = int(character) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _is_card(text: str) -> bool:
    digits = _digits(text)
    return len(set(digits)) > 2 and digits[0] in "3456" and luhn(digits)


def _is_iban(text: str) -> bool:
    compact = _SEPARATORS.sub("", text).upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _is_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _is_phone(text: str) -> bool:
    digits = _digits(text)
    fictional = re.search(r"55501\d\d$", digits) is not None
    return 8 <= len(digits) <= 15 and not fictional and len(set(digits)) > 2


def _is_mail(text: str) -> bool:
    return not _RESERVED.search(text.lower())


def _always(text: str) -> bool:
    return True


def _forms() -> Iterator[_Form]:
    def form(kind: str, pattern: str, holds: Callable[[str], bool] = _always) -> _Form:
        return _Form(kind, re.compile(pattern), holds)

    yield form(
        "secret key",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
        r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b"
        r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bsk-[A-Za-z0-9_-]{20,}",
    )
    yield form("e-mail address", r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+(?<![-_])", _is_mail)
    yield form("IBAN", r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{2,4}){3,8}(?:[ -]?[A-Z0-9])?\b", _is_iban)
    yield form("card number", r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d-])", _is_card)
    yield form(
        "social security number",
        r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])",
    )
    yield form("IP address", r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\d)\b", _is_address)
    yield form("IP address", r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{1,4}\b", _is_address)
    yield form(
        "telephone number",
        r"(?<![\w.+])(?<!\d )(?:\+|00)[1-9]\d{0,2}[ .()/-]{0,2}(?:\d[ .()/-]{0,2}){5,11}\d(?![\d])"
        r"|(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])\d{3}[ .-]\d{4}(?![\d-])",
        _is_phone,
    )


_FORMS = tuple(_forms())
PLACEHOLDERS = {
    "secret key": "SECRET",
    "e-mail address": "EMAIL",
    "IBAN": "IBAN",
    "card number": "CARD",
    "social security number": "SSN",
    "IP address": "IP",
    "telephone number": "PHONE",
}
"""What stands in the place of each kind once it is redacted, in brackets."""
