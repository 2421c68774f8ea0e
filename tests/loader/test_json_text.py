import json

import pytest
from pretexture.loader.console.json_text import parse, parse_object


def nested(depth):
    """An array in an array, and so on, `depth` of them."""
    return "[" * depth + "]" * depth


def test_json_is_read_as_the_standard_library_reads_it():
    value = {"a": [1, 2.5, None, True], "ä": {"b": "c"}}
    text = json.dumps(value, ensure_ascii=False)
    assert parse(text, "a.json") == parse(text.encode(), "a.json") == value
    many = json.dumps([[number] for number in range(1000)])  # many brackets, but shallow
    assert parse(many, "a.json") == json.loads(many)


@pytest.mark.parametrize("depth", [65, 900, 100_000])
@pytest.mark.parametrize("begin,end", [("[", "]"), ('{"a": ', "}")])
def test_deeply_nested_json_is_an_error_that_names_the_file(depth, begin, end):
    with pytest.raises(ValueError, match=r"^a\.json nests JSON values more than 64 deep"):
        parse(begin * depth + "1" + end * depth, "a.json")


def test_a_nesting_that_is_just_allowed_is_read():
    text = nested(64)
    assert parse(text, "a.json") == json.loads(text)


@pytest.mark.parametrize(
    "text,message",
    [
        ("{", "^a.json is not JSON: Expecting property name"),
        ("", "^a.json is not JSON: Expecting value"),
        (b"\xff{}", "^a.json is not JSON: 'utf-8' codec"),
        ("1" * 5000 + "x", "^a.json is not JSON: "),
    ],
)
def test_what_is_not_json_is_an_error_that_names_the_file(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, "a.json")


@pytest.mark.parametrize(
    "text,kind", [("[1]", "an array"), ("3", "a number"), ('"a"', "a string"), ("null", "null")]
)
def test_another_value_than_an_object_is_an_error_that_says_what_it_is(text, kind):
    assert parse_object('{"a": 1}', "a.json") == {"a": 1}
    with pytest.raises(ValueError, match=rf"^a.json must hold a JSON object, {{…}}, not {kind}$"):
        parse_object(text, "a.json")
