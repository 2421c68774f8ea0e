"""Makes text from files, servers and folders safe to print on a terminal."""

import unicodedata


def printable(text: str) -> str:
    """The text with every character that is not visible written as a backslash escape.

    These are control characters and terminal escapes, marks that change the direction of writing,
    other invisible characters, and the surrogates in names that are not UTF-8. Letters of all
    scripts stay.
    """
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character == " ":
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that could not be decoded
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()
