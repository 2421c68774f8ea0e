"""What a file's name may do to a terminal: nothing."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretexture.loader import RecordError
from pretexture.loader.console.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("train-00000-of-00001", "train-00000-of-00001"),
        ("with space/图像/äöü", "with space/图像/äöü"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\u200bzero", r"\u200bzero"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\xe9"),
        ("\U000e0041tag", r"\U000e0041tag"),
    ],
)
def test_what_does_not_print_is_escaped(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters(), max_size=30))
def test_the_result_prints_and_can_be_encoded(text):
    shown = printable(text)
    shown.encode("utf-8")
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def test_the_message_of_an_error_is_printable_and_its_path_is_the_files():
    error = RecordError("/data/\x1b[31mtrain", 5, 3, "why \x07")
    assert str(error) == r"/data/\x1b[31mtrain at byte 5 (record 3): why \x07"
    assert error.path == "/data/\x1b[31mtrain"
