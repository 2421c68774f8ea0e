"""The server of `pretexture explore`: who may ask, what it answers, and what it refuses."""

import importlib.util
import json
import os
import pathlib
import re
import struct
import sys

import numpy as np
import pytest

pytest.importorskip("flask")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pretexture.loader import Loader, Pipeline, TFRecords, _core, imagenet, presets
from pretexture.loader.explore import server
from pretexture.loader.explore.code import Code
from pretexture.loader.explore.explorer import Explorer
from pretexture.loader.language.steps import STEPS

TOKEN = "kH3-_token"
HAS_PLACES = sys.version_info >= (3, 8)
PAGE = pathlib.Path(importlib.util.find_spec(server.__name__).origin).parent / "page"


class Page:
    """A page's requests to the server of some records."""

    def __init__(self, records, classes=(), data="data/*"):
        code = Code(records, data, "train", {})
        app = server.make_app(Explorer(records, classes), code, "data", "ROTATION", TOKEN)
        app.testing = False  # an exception becomes a 500, as it does for a user
        self.client = app.test_client()

    def get(self, name, **parameters):
        headers = {"Host": "127.0.0.1:8000"}
        return self.client.get(f"/{TOKEN}/{name}", query_string=parameters, headers=headers)

    def ask(self, name, **parameters):
        """The JSON of an answer, with the pixels in `pictures`."""
        response = self.get(name, **parameters)
        assert response.status_code == 200, response.data
        (length,) = struct.unpack("<I", response.data[:4])
        answer, rest = json.loads(response.data[4 : 4 + length]), response.data[4 + length :]
        for number, (height, width) in enumerate(answer["pictures"]):
            size = height * width * 3
            answer["pictures"][number] = np.frombuffer(rest[:size], np.uint8).reshape(
                height, width, 3
            )
            rest = rest[size:]
        assert not rest
        return answer

    def views(self, pipeline, **parameters):
        return self.ask("views", pipeline=pipeline, **{"count": 3, **parameters})


@pytest.fixture
def page(shards):
    return Page(TFRecords(shards), ["ape", "bee", "cow"])


def pictures(answer, record, branch=0):
    """The views of a record in order, one after the other."""
    found = []

    def visit(node):
        if "picture" in node:
            found.append(answer["pictures"][node["picture"]])
        for part in node.get("parts", ()):
            visit(part)

    visit(answer["records"][record]["branches"][branch])
    return found


def titles(node):
    """The titles as a nested list; empty cells are None."""
    if "picture" in node:
        return node["title"]
    return [node["title"], *map(titles, node["parts"])] if node["parts"] else None


def batches(records, pipeline, count, **options):
    """The first records' batches of a Loader in file order, one record a batch."""
    options = {"shuffle": False, "drop_remainder": False, "dtype": "uint8", **options}
    with Loader(records, pipeline, 1, **options) as loader:
        return [batch for batch, _ in zip(loader, range(count))]


# Who may ask.


@pytest.mark.parametrize("name", ["", "about", "views", "source", "explore.js", "nothing"])
@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.lower(), "%00", "é"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_without_the_token_everything_is_forbidden(page, name, token, method):
    response = page.client.open(f"/{token}/{name}", method=method, headers={"Host": "localhost"})
    assert response.status_code == 403
    assert "token" in response.get_json()["error"] and TOKEN not in response.get_data(as_text=True)


@pytest.mark.parametrize(
    "path", ["/", "//", f"/x/{TOKEN}/", f"/?token={TOKEN}", f"//{TOKEN}/about"]
)
def test_the_token_is_the_beginning_of_the_address(page, path):
    assert page.client.get(path, headers={"Host": "localhost"}).status_code == 403


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example:8000",
     "localhost:80:evil.example", "10.0.0.1:8000", "0.0.0.0:8000", "[::2]:80", "localhost@evil"],
)  # fmt: skip
def test_another_host_name_is_refused_though_the_token_is_right(page, host):
    response = page.client.get(f"/{TOKEN}/about", headers={"Host": host})
    assert response.status_code in (400, 403)
    assert b"ROTATION" not in response.data


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8000"])
def test_this_machine_is_allowed_at_any_port(page, host):
    assert page.client.get(f"/{TOKEN}/about", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("name", ["", "about", "explore.css", "views", "nothing"])
def test_browsers_are_told_to_load_nothing_else_and_to_keep_the_token_secret(page, name):
    headers = page.get(name).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


def test_the_pages_files_name_no_other_server():
    assert {path.name for path in PAGE.iterdir()} == {"index.html", *server._FILES}
    for path in PAGE.iterdir():
        assert not re.search(r"(https?:)?//\w+\.\w", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "name, status",
    [("", 200), *((name, 200) for name in server._FILES), ("server.py", 404), ("nothing", 404),
     ("..%2fserver.py", 404), ("%2e%2e/server.py", 404), ("index.html", 404)],
)  # fmt: skip
def test_only_the_files_of_the_page_are_served(page, name, status):
    assert page.get(name).status_code == status


# Views.


@pytest.mark.parametrize(
    "text",
    ["resize(40)|crop(33)|flip", "ROTATION", "EXEMPLAR", "resize(60)|patches(3, jitter=3)",
     "SWAV", "DINO", "crop(30, 20)|gray(0.5)"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_views_are_those_that_a_loader_makes_in_that_epoch(page, shards, text, mode):
    answer = page.views(text, mode=mode, seed=7, epoch=2, record=4, count=2)
    loader = Loader(
        TFRecords(shards), presets.find(text), 1, training=mode == "training", seed=7,
        shuffle=False, drop_remainder=False, dtype="uint8",
    )  # fmt: skip
    loader.set_epoch(2)
    expected = list(loader)[4:6]
    loader.close()
    for record, batch in enumerate(expected):
        assert answer["records"][record]["number"] == batch.index[0] == 4 + record
        images = batch.image if isinstance(batch.image, tuple) else (batch.image,)
        for branch, image in enumerate(images):
            found = np.stack(pictures(answer, record, branch))
            np.testing.assert_array_equal(found, image.reshape(found.shape))


def test_other_seeds_and_epochs_make_other_views_and_the_same_ones_the_same(page):
    def first(**draw):
        return pictures(page.views("random_resized_crop(32)", **draw), 0)[0].tobytes()

    draws = [{}, {"seed": 1}, {"seed": 2**64 - 1}, {"epoch": 1}, {"epoch": 2**32 - 1}]
    assert len({first(**draw) for draw in draws}) == 5
    assert first(seed=3) == first(seed=3)


def test_titles_are_the_labels_of_the_pretext_task(page):
    def of(text):
        answer = page.views(text, mode="evaluation")
        return [titles(record["branches"][0]) for record in answer["records"]]

    assert of("resize(30)") == [""] * 3
    assert of("resize(30)|rotate")[1] == ["", "0°", "90°", "180°", "270°"]
    assert of("2*(resize(30))")[2] == ["", "view 0", "view 1"]
    assert of("resize(30)|patches(2)")[0] == ["", "0", "1", "2", "3"]
    # In evaluation the neighbour is the record number mod 8.
    assert of("resize(30)|patches(3)|pair") == [
        ["", "neighbour 0", None, None, None, "centre", None, None, None, None],
        ["", None, "neighbour 1", None, None, "centre", None, None, None, None],
        ["", None, None, "neighbour 2", None, "centre", None, None, None, None],
    ]
    assert [row[1][0] for row in of("resize(30)|patches(3)|jigsaw")] == [
        f"permutation {number}" for number in range(3)
    ]


def test_the_answer_says_how_many_views_of_which_size_there_are(page):
    assert page.views("DINO")["views"] == "1 view of 224x224 + 1 of 224x224 + 8 of 96x96"
    assert page.views("crop(30, 20)|patches(2)")["views"] == "4 views of 15x10"


def test_records_end_with_the_data_set(page):
    answer = page.views("resize(9)", record=35, count=6)
    assert answer["numbers"] == [35, 36]
    assert [record["number"] for record in answer["records"]] == [35, 36]
    response = page.get("views", pipeline="resize(9)", record=37)
    assert response.status_code == 400
    assert response.get_json()["error"] == "record must be a whole number from 0 to 36, not '37'"


def test_a_record_has_its_image_label_and_place(page, shards, images):
    answer = page.ask("source", record=1)
    assert answer["label"] == "class 1, bee"
    assert answer["place"].startswith(f"{shards[0]} at byte ")
    (picture,) = answer["pictures"]
    np.testing.assert_array_equal(picture, _core.decode_jpeg(images[1]))
    assert answer["size"] == list(picture.shape[:2])
    assert page.ask("source", record=36)["label"] == "class 36"


def test_a_large_image_is_made_smaller(write_shards, tmp_path):
    image = pytest.importorskip("PIL.Image")
    picture = image.new("RGB", (1200, 601), (200, 100, 50))
    picture.save(tmp_path / "a.jpg", quality=95)
    paths = write_shards(tmp_path, [(tmp_path / "a.jpg").read_bytes()])
    answer = Page(TFRecords(paths)).ask("source", record=0)
    assert answer["size"] == [601, 1200]
    (picture,) = answer["pictures"]
    assert picture.shape == (160, 320, 3)
    assert np.abs(picture - np.array([200, 100, 50])).max() < 6


def test_the_python_makes_that_loader(shards, monkeypatch):
    monkeypatch.chdir(os.path.dirname(shards[0]))
    # The split "train" leaves out the last of the three shards, and so does the pattern.
    for data, records in (
        (".", imagenet(".", "train")),
        ("train-0000[01]-*", TFRecords(shards[:2])),
    ):
        page = Page(records, data=data)
        for text, mode in (("DINO", "training"), ("crop(30)|flip", "evaluation")):
            code = page.views(text, mode=mode, seed=5)["python"]
            assert ("presets.DINO" in code) == (text == "DINO")
            names = {}
            exec(code, names)
            with names["loader"] as loader:
                assert loader.pipeline == presets.find(text)
                assert (loader.training, loader.seed) == (mode == "training", 5)
                found = [os.path.basename(path) for path in loader.records.paths]
                assert found == [os.path.basename(path) for path in shards[:2]]


def test_the_page_knows_all_presets_and_steps(page):
    about = page.get("about").get_json()
    assert about["records"] == 37 and about["pipeline"] == "ROTATION"
    assert {name: Pipeline(text) for name, text in about["presets"].items()} == presets.ALL
    assert [step["written"].partition("(")[0] for step in about["steps"]] == list(STEPS)
    assert all(len(step["text"]) > 20 for step in about["steps"])


def test_nothing_is_written(page, tmp_path, monkeypatch):
    page.get("about")  # the index of the shards is there
    cache = pathlib.Path(os.environ["XDG_CACHE_HOME"])
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    monkeypatch.chdir(tmp_path)
    for epoch in range(3):
        page.views("inception(64)", epoch=epoch, count=32)
        page.ask("source", record=epoch)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert not list(tmp_path.iterdir())


# What is wrong.


@pytest.mark.parametrize(
    "text, error, marked",
    [
        ("resize(96)|crip(32)", "step 2: there is no step 'crip'; did you mean crop?", "crip(32)"),
        (
            "resize(96)|crop(97)|flip",
            "step 2, crop(97): a crop of 97x97 does not fit in 96x96",
            "crop(97)",
        ),
        ("  DINOSAUR ", "step 1: there is no step 'DINOSAUR'", "DINOSAUR"),
        ("flip|crop(96))", "cannot read 'flip|crop(96))'", ")"),
        ("2*(resize(9))+(flip|resize())", "branch 2, step 2, resize: missing", "resize()"),
        ("", "at least one step", None),
        ("crop(0x" + "f" * 5000 + ")", "", None),
        ("resize(9000)", "81 megapixels, and this page shows up to 17", None),
    ],
)
def test_an_impossible_pipeline_has_the_loaders_message_and_marks_the_step(
    page, text, error, marked
):
    answer = page.views(text)
    assert error in answer["error"] and not answer["pictures"]
    assert answer["numbers"] == [0, 1, 2], "the records are there without views"
    place = answer["place"]
    if not HAS_PLACES and "step" in error.partition(":")[0]:
        marked = None
    assert (text[slice(*place)] if place else None) == marked
    if "this page" not in error:
        with pytest.raises(ValueError) as raised:
            Pipeline(text.strip())
        assert answer["error"] == str(raised.value)


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("views", {"seed": "x"}),
        ("views", {"seed": "-1"}),
        ("views", {"seed": 2**64}),
        ("views", {"seed": "9" * 5000}),
        ("views", {"seed": "1.0"}),
        ("views", {"seed": ""}),
        ("views", {"seed": "\u00b2"}),
        ("views", {"epoch": 2**32}),
        ("views", {"record": -1}),
        ("views", {"count": 0}),
        ("views", {"count": 33}),
        ("views", {"turn": "a"}),
        ("source", {"record": 37}),
        ("source", {"record": "first"}),
    ],
)
def test_a_bad_number_is_a_bad_request_that_says_which(page, name, parameters):
    ((wrong, _),) = parameters.items()
    response = page.get(name, pipeline="resize(9)", **parameters)
    assert response.status_code == 400
    assert response.get_json()["error"].startswith(f"{wrong} must be a whole number from ")


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.one_of(
        st.text(),
        st.binary(max_size=40).map(lambda data: data.decode("latin-1")),
        st.lists(
            st.sampled_from(
                [
                    *"()|+,=3\n",
                    "2*",
                    "99*",
                    "0.5",
                    "'a'",
                    "None",
                    "-1",
                    "views",
                    *STEPS,
                    *presets.ALL,
                ]
            ),
            max_size=12,
        ).map("".join),
    )
)
def test_no_text_is_an_error_of_the_server(page, text):
    response = page.get("views", pipeline=text, count=1)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "text",
    ["crop(" + "/".join("1" * 3000) + ")", "|".join(["flip"] * 9000), "(" * 5000, "-" * 9000 + "1",
     "crop(8)\0", "\ud800".encode("utf-8", "surrogatepass"), "+".join(["(crop(8))"] * 65)],
    ids=["fractions", "steps", "brackets", "signs", "zero byte", "surrogate", "branches"],
)  # fmt: skip
def test_extreme_texts_are_impossible_pipelines(page, text):
    assert page.views(text)["error"]


# Records that cannot be used.


@pytest.fixture
def broken(images, write_shards, tmp_path):
    """Paths of two shards with four records each: the second is no JPEG, the fourth one is cut."""
    bad = [images[0], b"no image", images[1], images[2][:200], *images[3:7]]
    return write_shards(tmp_path, bad, 2)


def test_a_broken_record_shows_its_error_and_the_others_their_views(broken):
    page = Page(TFRecords(broken))
    answer = page.views("resize(32)|flip", count=8)
    errors = [record["error"] for record in answer["records"]]
    assert [bool(error) for error in errors] == [False, True, False, True] + 4 * [False]
    assert errors[1].startswith(f"{broken[0]} at byte ") and "(record 1): " in errors[1]
    assert [len(record["branches"]) for record in answer["records"]] == [1, 0, 1, 0, 1, 1, 1, 1]
    still = page.views("resize(32)", count=8)
    for number, batch in enumerate(batches(TFRecords(broken[1]), "resize(32)", 4), 4):
        np.testing.assert_array_equal(pictures(still, number)[0], batch.image[0])


def test_a_broken_record_has_its_label_and_place(broken):
    page = Page(TFRecords(broken))
    answer = page.ask("source", record=1)
    assert (answer["label"], answer["size"], answer["pictures"]) == ("class 1", None, [])
    assert answer["place"].startswith(f"{broken[0]} at byte ")
    assert not page.ask("source", record=3)["pictures"]


def test_a_record_with_a_wrong_checksum_is_one_broken_record(broken):
    with open(broken[1], "r+b") as shard:
        (length,) = struct.unpack("<Q", shard.read(8))
        shard.seek(12 + length // 2)
        byte = shard.read(1)
        shard.seek(-1, os.SEEK_CUR)
        shard.write(bytes([byte[0] ^ 1]))
    page = Page(TFRecords(broken))
    errors = [record["error"] for record in page.views("resize(8)", count=8)["records"]]
    assert f"{broken[1]} at byte 0 (record 4): CRC32C" in errors[4] and not errors[5]
    assert page.ask("source", record=4)["label"] == ""


def test_what_comes_before_the_damage_in_a_broken_shard_is_shown(shards, tmp_path):
    paths = []
    for path in shards[:2]:
        paths.append(str(tmp_path / os.path.basename(path)))
        pathlib.Path(paths[-1]).write_bytes(pathlib.Path(path).read_bytes())
    os.truncate(paths[0], os.path.getsize(paths[0]) - 5)
    page = Page(TFRecords(paths))
    about = page.get("about").get_json()
    assert about["records"] == 12 + 12 - 1  # of 37 records in three shards
    (fault,) = about["faults"]
    assert fault.startswith(f"{paths[0]} at byte ")
    answer = page.views("resize(8)", record=9, count=4)
    assert [record["error"] for record in answer["records"]] == [""] * 4


def test_a_file_that_is_gone_is_an_error_of_its_records(broken):
    page = Page(TFRecords(broken))
    os.remove(broken[1])
    answer = page.views("resize(8)", count=8)
    assert not answer["records"][0]["error"]
    assert broken[1] in answer["records"][7]["error"]
    assert page.ask("source", record=7)["place"].startswith(broken[1])


# Limits.


@pytest.mark.parametrize(
    "text, views, shown",
    [
        ("4096*(random_resized_crop(32))", 4096, 64),
        ("4096*(random_resized_crop(224))", 4096, 20),
        ("2*(inception(24, views=100))", 200, 64),
        ("inception(24, views=1000)|rotate", 4000, 64),
        ("3*(crop(32)|patches(8))", 192, 64),
        ("crop(30)|patches(30)", 900, 64),
        ("crop(30)|patches(2)|inception(16, views=50)", 200, 64),
        ("2*(crop(8)) + 1000*(flip|crop(9))", 1002, 2 + 32),
    ],
)
def test_of_many_views_the_first_are_shown_as_they_are(page, shards, text, views, shown):
    answer = page.views(text, count=1, seed=1)
    assert answer["notes"] == [f"the first {shown} views are shown"]
    assert sum(map(int, re.findall(r"(\d+)(?: views?)? of ", answer["views"]))) == views
    (batch,) = batches(TFRecords(shards), text, 1, seed=1)
    images = batch.image if isinstance(batch.image, tuple) else (batch.image,)
    for branch, image in enumerate(images):
        found = pictures(answer, 0, branch)
        expected = image.reshape(-1, *image.shape[-3:])[: len(found)]
        np.testing.assert_array_equal(np.stack(found), expected)
    assert len(answer["pictures"]) == shown


def test_of_large_views_fewer_records_are_shown(page):
    answer = page.views("resize(2048)", count=32)
    # A view has 12 MiB, and an answer at most 48.
    assert answer["numbers"] == [0, 1, 2, 3]
    assert answer["notes"] == ["4 records are shown at once, because the views are large"]
    assert len(page.get("views", pipeline="resize(2048)", count=32).data) < 49 << 20


def test_a_request_that_is_outdated_ends_early(page):
    latest = page.views("resize(8)", reader="a", turn=5)
    assert latest["numbers"] == [0, 1, 2]
    assert page.views("resize(8)", reader="a", turn=4)["numbers"] == []
    assert page.views("resize(8)", reader="b", turn=1)["numbers"] == [0, 1, 2]
    assert page.views("resize(8)", reader="a", turn=6)["numbers"] == [0, 1, 2]


def test_the_latest_readers_are_remembered():
    turns = server.Turns()
    old = turns.begin("old", 7)
    for number in range(turns.READERS):
        turns.begin(str(number), 1)
    assert not old()
    first, second = turns.begin("a", 1), turns.begin("a", 2)
    assert first() and not second()


def test_records_of_a_folder_of_images_are_explored(images, tmp_path):
    from pretexture.loader import ImageFolder

    for number in range(4):
        folder = tmp_path / f"class{number % 2}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(images[number])
    records = ImageFolder(str(tmp_path))
    page = Page(records, records.classes)
    answer = page.ask("source", record=3)
    assert answer["label"] == "class 1, class1"
    assert answer["place"] == str(tmp_path / "class1" / "3.jpg")
    assert len(page.views("ROTATION", count=9)["records"]) == 4
