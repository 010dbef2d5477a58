"""Write a token the way the Penn Treebank does: two kinds of quotes, brackets by name, one kind of dash.

Each function takes the token as it stands in the text. The tokenizer's American spelling is off as the metrics run it.
"""

import re

FRACTIONS = str.maketrans({"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"})
CURRENCIES = str.maketrans({"¢": "cents", "£": "#", "¤": "$", "₠": "$", "€": "$", "\x80": "$"})
ROUND_BRACKETS = str.maketrans({"(": "-LRB-", ")": "-RRB-"})
NAMES = {
    "(": "-LRB-",
    ")": "-RRB-",
    "[": "-LSB-",
    "]": "-RSB-",
    "{": "-LCB-",
    "}": "-RCB-",
    "&lt;": "<",
    "&gt;": ">",
}
QUOTES = str.maketrans(
    dict.fromkeys("\x91‘‛‹", "`")
    | dict.fromkeys("\x92’›", "'")
    | dict.fromkeys("\x93“«", "``")
    | dict.fromkeys("\x94”»", "''")
)


def keep(text: str) -> str:
    """Return the token unchanged."""
    return text


def drop(text: str) -> None:
    """Return None: blanks and characters that the tokenizer does not know make no token."""


def drop_soft_hyphens(text: str) -> str:
    """Remove soft hyphens, which show only at a line break."""
    return text.replace("\u00ad", "") or "-"


def write_opening_quote(text: str) -> str:
    """Write a quote before a word as one or two backticks."""
    return re.sub('"|&quot;', "``", re.sub("&apos;|'", "`", text)).translate(QUOTES)


def write_closing_quote(text: str) -> str:
    """Write other quotes, and the apostrophe of ``'s``, as one or two apostrophes."""
    return re.sub('"|&quot;', "''", text.replace("&apos;", "'")).translate(QUOTES)


def write_ampersands(text: str) -> str:
    """Write the entity ``&amp;`` as the sign ``&``."""
    return re.sub("&amp;", "&", text, flags=re.IGNORECASE)


def keep_blanks(text: str) -> str:
    """Write the blanks inside a token as hard blanks, so that it stays one token."""
    return text.replace(" ", "\u00a0")


def write_fractions(text: str) -> str:
    """Write the common fractions with a slash."""
    return text.translate(FRACTIONS)


def write_currencies(text: str) -> str:
    """Write the pound as ``#`` and the euro as ``$``, the signs that the Treebank knows."""
    return text.translate(CURRENCIES)


def name_round_brackets(text: str) -> str:
    """Write the round brackets of a smiley by their names."""
    return text.translate(ROUND_BRACKETS)


def write_phone(text: str) -> str:
    """Write a telephone number as one token, with its brackets by their names."""
    return name_round_brackets(keep_blanks(text))


def write_dashes(text: str) -> str:
    """Write three or four hyphens as a dash."""
    return "--" if 3 <= len(text) <= 4 else text


def name_bracket(text: str) -> str:
    """Write a bracket by its name."""
    return NAMES.get(text.lower(), text)


def write_dash(text: str) -> str:
    """Write every kind of dash in one way."""
    return "--"


def write_ellipsis(text: str) -> str:
    """Write every kind of ellipsis in one way."""
    return "..."
