"""Read the chosen option from a model's answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

_LEAD = re.compile(
    r"^\W*(?:(?:the|my)\s+)?(?:(?:best|correct|right|final)\s+)?(?:answer|option|choice)"
    r"(?:\s+is|\s*:)?\s*(?:option\s+)?",
    re.IGNORECASE,
)


def chosen_letter(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option named in a text, by letter or in words; None if unclear.

    >>> options = ["a red car", "a dog"]
    >>> [chosen_letter(text, options) for text in ("B", "(B) a dog", "The best answer is: B.")]
    ['B', 'B', 'B']
    >>> chosen_letter("A dog.", options), chosen_letter("A cat", options)
    ('B', None)
    """
    letters = ascii_uppercase[: len(options)]
    text = _LEAD.sub("", text.strip(), count=1)
    plain = [_plain(option) for option in options]
    if plain.count(_plain(text)) == 1:
        return letters[plain.index(_plain(text))]
    start = re.match(rf"\W*([{letters}])(?:\W*$|\s*[.):,\n])", text)
    if start:
        return start[1]
    named = set(re.findall(rf"(?<![\w'])([{letters}])(?![\w'])", _without_article(text)))
    if len(named) == 1:
        return str(named.pop())
    inside = [
        letter
        for letter, option in zip(letters, plain, strict=True)
        if option and re.search(rf"\b{re.escape(option)}\b", _plain(text))
    ]
    return inside[0] if len(inside) == 1 and not named else None


def _without_article(text: str) -> str:
    """Remove an ``A`` that starts a phrase, as in ``A dog``."""
    return re.sub(r"(^|[.!?]\s+)A(?=\s+[a-z])", r"\1", text)


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(" \t\n.,;:!?\"'()").split())
