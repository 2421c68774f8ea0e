"""Documents in which a command writes the part between two marks."""


def replace_marked(text: str, name: str, part: str) -> str:
    """Replaces the part of a document between its marks.

    Args:
        text: the document; the marks are the comments `<!-- NAME -->` and `<!-- /NAME -->`.
        name: NAME of the marks.
        part: text to put between the marks.

    Returns: the new document.

    Raises: ValueError if the document has no such marks.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    begin, end = text.find(first), text.find(last)
    if begin < 0 or end < begin:
        raise ValueError(f"there are no marks {first} and {last}, between which the report goes")
    return f"{text[:begin]}{first}\n\n{part}\n{text[end:]}"
