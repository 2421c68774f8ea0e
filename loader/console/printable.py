"""Text from files, servers and folders, made fit for a terminal."""

import unicodedata


def printable(text: str) -> str:
    """The text with everything that does not print as itself written as a backslash escape.

    That is: control characters and terminal escapes, marks that change the direction of writing,
    other invisible characters, and the surrogates that stand for bytes of a name that is not UTF-8.
    Letters of all scripts stay.
    """
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character == " ":
        return character
    if "\udc80" <= character <= "\udcff":  # an undecodable byte
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()
