"""Documents with a part that a script writes, between two marks."""


def replace_marked(text: str, name: str, part: str) -> str:
    """A document with what stands between its marks replaced.

    Args:
        text: of the document; the marks are the comments `<!-- NAME -->` and `<!-- /NAME -->`.
        name: of the marks.
        part: what is to stand between them.

    Raises: ValueError where the marks are not there.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    begin, end = text.find(first), text.find(last)
    if begin < 0 or end < begin:
        raise ValueError(f"there are no marks {first} and {last}, between which the report goes")
    return f"{text[:begin]}{first}\n\n{part}\n{text[end:]}"
