import io

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("google.protobuf")

from PIL import Image
from pretexture import permutations
from pretexture.loader import Pipeline, TFRecords, presets, samples
from pretexture.loader.preview import contact_sheet
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.scripts import preview


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(seed):
    """An image of 96 x 96 pixels without repetitions, as a JPEG and as decoded pixels."""
    small = np.random.RandomState(seed).randint(0, 256, (6, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((96, 96)).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue(), np.asarray(Image.open(buffer))


@pytest.fixture
def shards(tmp_path):
    for split in ("train", "validation"):
        for number in range(2):
            with TFRecordWriter(tmp_path / f"{split}-0000{number}-of-00002") as writer:
                for i in range(3):
                    jpeg, _ = picture(3 * number + i)
                    writer.write(example({"image/encoded": jpeg, "image/class/label": i + 1}))
    return tmp_path


def sheet(shards, pipeline, tile):
    """Draws a sheet in evaluation; returns a function that finds pixels on it."""
    records = TFRecords(str(shards / "train-*"))
    image = np.asarray(
        contact_sheet(
            records,
            Pipeline(pipeline),
            training=False,
            count=6,
            seed=0,
            tile=tile,
            classes=["ape", "bee", "cow"],
        )
    ).astype(int)

    def find(pixels):
        """The only place, (top, left), that shows these pixels."""
        height, width = pixels.shape[:2]
        corner = np.abs(image - pixels[0, 0].astype(int)).max(axis=2) <= 2
        found = [
            (int(y), int(x))
            for y, x in np.argwhere(corner)
            if image[y : y + height, x : x + width].shape == pixels.shape
            and np.abs(image[y : y + height, x : x + width] - pixels).max() <= 2
        ]
        assert len(found) == 1, f"stands in {len(found)} places"
        return found[0]

    return find


def test_rotations_are_shown_counter_clockwise_beside_their_source(shards):
    find = sheet(shards, "crop(96, 96)|center_crop(64)|rotate", 64)
    for record in range(6):
        centre = picture(record)[1][16:80, 16:80]
        places = [find(np.rot90(centre, turns)) for turns in range(4)]
        tops, lefts = zip(*places)
        assert len(set(tops)) == 1, "in one row"
        assert list(lefts) == sorted(lefts), "0, 90, 180, 270 from left to right"


def patch(record, number):
    y, x = divmod(number, 3)
    return picture(record)[1][32 * y : 32 * y + 32, 32 * x : 32 * x + 32]


def test_patches_are_shown_at_their_places(shards):
    find = sheet(shards, "crop(96)|patches(3)", 64)
    for record in range(6):
        places = np.array([find(patch(record, i)) for i in range(9)]).reshape(3, 3, 2)
        assert (np.diff(places[..., 0], axis=0) > 32).all()
        assert (np.diff(places[..., 0], axis=1) == 0).all()
        assert (np.diff(places[..., 1], axis=1) > 32).all()
        assert (np.diff(places[..., 1], axis=0) == 0).all()


def test_a_jigsaw_is_shown_shuffled(shards):
    find = sheet(shards, "crop(96)|patches(3)|jigsaw('maximal-4')", 64)
    for record in range(6):
        permutation = permutations.maximal(4)[record % 4]
        places = [find(patch(record, i)) for i in permutation]
        assert places == sorted(places), "row by row"


def test_a_neighbour_is_shown_on_its_side_of_the_centre(shards):
    find = sheet(shards, "crop(96)|patches(3)|pair", 64)
    for record in range(6):
        place = [0, 1, 2, 3, 5, 6, 7, 8][record]
        centre, neighbour = find(patch(record, 4)), find(patch(record, place))
        found = np.sign(np.subtract(neighbour, centre)).tolist()
        assert found == [place // 3 - 1, place % 3 - 1]


def test_nested_splits_are_drawn(shards):
    find = sheet(shards, "crop(96)|patches(3)|rotate", 64)
    for number in (0, 4, 8):
        for turns in range(4):
            find(np.rot90(patch(2, number), turns))


@pytest.mark.parametrize("name", [*presets.ALL, "rotation", "resize(32)|flip"])
@pytest.mark.parametrize("more", [[], ["--eval", "--split", "test"]])
def test_every_preset_makes_a_sheet(shards, name, more, capsys):
    out = shards / "new" / "sheet.png"
    arguments = ["--data", str(shards), "--pipeline", name, "--out", str(out), "--count", "2"]
    assert preview.main(arguments + more) == 0
    with Image.open(out) as image:
        assert f"{image.width}x{image.height}" in capsys.readouterr().out
        assert np.asarray(image).std() > 10


def test_shards_may_be_a_pattern_and_equal_seeds_give_equal_sheets(shards):
    def make(seed):
        out = shards / "sheet.png"
        pattern = str(shards / "train-*")
        arguments = ["--data", pattern, "--pipeline", "SUPERVISED", "--seed", str(seed)]
        assert preview.main([*arguments, "--out", str(out)]) == 0
        return out.read_bytes()

    assert make(0) == make(0) != make(1)


@pytest.mark.parametrize(
    "data, pipeline, out, reason",
    [
        ("none/*", "EVAL", "a.png", "no file matches"),
        (".", "crip(32)", "a.png", "there is no step 'crip'; did you mean crop"),
        (".", "EVAL", "a.jigsaw", "unknown file extension"),
        (".", "crop(500)", "a.png", "500"),
    ],
)
def test_wrong_requests_are_errors_of_one_line(shards, data, pipeline, out, reason):
    with pytest.raises(SystemExit, match=reason) as error:
        preview.main(
            ["--data", str(shards / data), "--pipeline", pipeline, "--out", str(shards / out)]
        )
    assert "\n" not in str(error.value)


def test_a_sheet_cannot_go_to_a_url_or_into_a_file(shards, capsys):
    arguments = ["--data", str(shards), "--pipeline", "EVAL", "--out"]
    with pytest.raises(SystemExit):
        preview.main([*arguments, "s3://user:secret@bucket/a.png"])
    message = capsys.readouterr().err
    assert "must be a path on this machine, not s3://" in message and "secret" not in message
    (shards / "file").touch()
    with pytest.raises(SystemExit, match="file"):
        preview.main([*arguments, str(shards / "file" / "a.png")])


def test_only_a_few_shards_are_fetched_from_a_url(s3, shards, tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    (shards / "dataset.json").write_text('{"classes": ["ape", "bee", "cow"]}')
    s3.put([*shards.glob("train-*"), shards / "dataset.json"])
    monkeypatch.setattr(samples, "SHARDS", 1)
    flags = ["--pipeline", "resize(48)|rotate", "--split", "trainval", "--count", "2"]
    storage = ["--endpoint-url", s3.endpoint, "--cache-dir", str(tmp_path / "cache")]
    out = tmp_path / "sheet.png"
    assert preview.main(["--data", f"{s3.bucket}/data", *flags, *storage, "--out", str(out)]) == 0
    assert Image.open(out).width > 4 * 48
    assert s3.proxy.count("GET", "/train-") == 1 and s3.proxy.count("GET", "/dataset.json") == 1


def test_a_recipe_is_previewed_by_its_name(shards, tmp_path, capsys):
    flags = ["--data", str(shards), "--split", "trainval", "--out"]
    assert preview.main([*flags, str(tmp_path / "a.png"), "--recipe", "rotation-small"]) == 0
    # The pipeline that docs/training.md and `pretrain --show rotation-small` name.
    text = "inception_crop(area=(0.3, 1))|resize(64)|flip|distort|range(-1, 1)|rotate"
    assert preview.main([*flags, str(tmp_path / "b.png"), "--pipeline", text]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(SystemExit, match="no recipe 'rotation-smal'; did you mean rotation-small"):
        preview.main([*flags, str(tmp_path / "c.png"), "--recipe", "rotation-smal"])
    for both in ([], ["--recipe", "jigsaw", "--pipeline", "ROTATION"]):
        with pytest.raises(SystemExit):
            preview.main([*flags, str(tmp_path / "c.png"), *both])
        assert "give either --pipeline or --recipe" in capsys.readouterr().err
