"""The page of `pretexture explore` in Chromium: `make test-browser`."""

import contextlib
import os
from urllib.parse import urlencode

import numpy as np
import pytest

pytest.importorskip("flask")

from explored import chromium, exploring, missing
from pretexture.loader import Loader, Pipeline, PipelineError, TFRecords, presets

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

with contextlib.suppress(ImportError):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

# The pixels of a row's views: for each canvas its height, its width and its values.
PIXELS = """
const canvases = document.querySelectorAll(`#record-${arguments[0]} .views.${arguments[1]} canvas`);
return [...canvases].map(c =>
  [c.height, c.width, [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]]);
"""


class Page:
    """What a user does on the page, and sees."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, **chosen):
        self.driver.get("about:blank")  # else only the part after # changes
        self.driver.get(f"{self.url}#{urlencode(chosen)}")
        self.until(lambda: self.find("#records .source .place") or self.find(".wrong"))

    def find(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, selector):
        (element,) = self.find(selector)
        return element.text

    def until(self, condition):
        return WebDriverWait(self.driver, 30, 0.02).until(lambda _: condition())

    def type(self, text, panel="a"):
        (field,) = self.find(f"[data-name={panel}] textarea")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)
        return field

    def pixels(self, record, panel="a"):
        found = self.driver.execute_script(PIXELS, record, panel)
        views = [np.array(data, np.uint8).reshape(h, w, 4) for h, w, data in found]
        assert all((view[..., 3] == 255).all() for view in views)
        return [view[..., :3] for view in views]

    def shows(self, records, text, panel="a", numbers=(0, 1), **options):
        """Waits until these records' views are those that a Loader makes."""
        loader = Loader(
            records, presets.find(text), 1,
            **{"shuffle": False, "drop_remainder": False, "dtype": "uint8", **options},
        )  # fmt: skip
        with loader:
            batches = [batch for batch, _ in zip(loader, range(max(numbers) + 1))]
        for number in numbers:
            image = batches[number].image
            branches = image if isinstance(image, tuple) else (image,)
            expected = [view for b in branches for view in b.reshape(-1, *b.shape[-3:])]

            def same(number=number, expected=expected):
                found = self.pixels(number, panel)
                return len(found) == len(expected) and all(map(np.array_equal, found, expected))

            self.until(same)

    def click(self, selector):
        (element,) = self.find(selector)
        element.click()


@pytest.fixture(scope="module")
def driver():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def data(images, write_shards, tmp_path_factory):
    """Paths of shards with 22 records, of which number 20 is no image."""
    folder = tmp_path_factory.mktemp("explored")
    return write_shards(folder, [*images[:20], b"no image", images[20]], 2)


@pytest.fixture(scope="module")
def url(data):
    pattern = os.path.join(os.path.dirname(data[0]), "train-*")
    with exploring(pattern, "--no-browser") as (_, url):
        yield url


@pytest.fixture
def page(driver, url):
    page = Page(driver, url)
    driver.get_log("browser")
    yield page
    # Nothing failed that only the console says, and nothing came from elsewhere.
    assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    loaded = driver.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert loaded and all(address.startswith(url) for address in loaded)


@pytest.fixture
def records(data):
    return TFRecords(data)


def test_the_page_begins_with_the_rotations_of_the_first_records(page, records):
    page.open()
    page.shows(records, "ROTATION")
    assert page.text("#title").endswith(" · 22 records")
    assert len(page.find(".record")) == 6
    titles = [caption.text for caption in page.find("#record-0 figcaption")]
    assert titles == ["0°", "90°", "180°", "270°"]
    assert page.text("#record-3 .label") == "class 3"


def test_views_follow_what_is_typed(page, records):
    page.open()
    page.type("resize(40)|flip|gray(0.5)")
    page.shows(records, "resize(40)|flip|gray(0.5)")
    assert page.text("[data-name=a] .message").startswith("1 view of 40x40 · ")
    # Enlarged by a whole factor: 5 x 40 is not more than 224.
    (canvas,) = page.find("#record-0 .views canvas")
    assert canvas.size == {"width": 200, "height": 200}
    assert canvas.value_of_css_property("image-rendering") == "pixelated"


def test_alt_and_arrows_change_the_number_at_the_cursor(page, records):
    page.open(pipeline0="resize(40)|gray(0.5)")
    (field,) = page.find("[data-name=a] textarea")
    field.send_keys(Keys.CONTROL, Keys.END)
    field.send_keys(Keys.LEFT)
    field.send_keys(Keys.ALT, Keys.UP)
    page.shows(records, "resize(40)|gray(0.6)")
    field.send_keys(Keys.CONTROL, Keys.HOME)
    field.send_keys(*[Keys.RIGHT] * 8)
    field.send_keys(Keys.ALT, Keys.SHIFT, Keys.DOWN)
    page.shows(records, "resize(30)|gray(0.6)")
    assert field.get_attribute("value") == "resize(30)|gray(0.6)"


def test_a_preset_shows_every_branch(page, records):
    page.open()
    (preset,) = page.find("[data-name=a] .preset")
    Select(preset).select_by_visible_text("DINO")
    page.shows(records, "DINO", numbers=(0,))
    assert len(page.pixels(0)) == 1 + 1 + 8
    (field,) = page.find("[data-name=a] textarea")
    assert Pipeline(field.get_attribute("value")) == presets.DINO


def test_an_impossible_pipeline_has_the_loaders_message_and_its_step_is_marked(page, records):
    page.open(pipeline0="resize(40)|flip")
    page.shows(records, "resize(40)|flip")
    text = "2*(resize(40)|flip) +\n(resize(40)|crop(41)|flip)"
    page.type(text)
    with pytest.raises(PipelineError) as error:
        Pipeline(text)
    page.until(lambda: page.text("[data-name=a] .message") == str(error.value))
    (mark,) = page.find("[data-name=a] mark")
    assert mark.get_attribute("textContent") == "crop(41)"
    # The last views stay, and are seen to be old.
    assert page.find("#record-0 .views.stale canvas")
    (button,) = page.find(".panel:not([hidden]) .copy-python")
    assert not button.is_enabled()
    page.type("resize(40)|crop(39)")
    page.shows(records, "resize(40)|crop(39)")
    assert not page.find("mark") and not page.find(".stale") and button.is_enabled()


def test_draw_again_takes_the_next_seed(page, records):
    page.open(pipeline0="random_resized_crop(32)")
    page.shows(records, "random_resized_crop(32)", seed=0)
    page.click("#again")
    page.shows(records, "random_resized_crop(32)", seed=1)
    (seed,) = page.find("#seed")
    assert seed.get_attribute("value") == "1"
    seed.send_keys(Keys.CONTROL, "a")
    seed.send_keys("18446744073709551615")
    page.shows(records, "random_resized_crop(32)", seed=2**64 - 1)
    page.click("#again")
    page.shows(records, "random_resized_crop(32)", seed=0)


def test_training_and_evaluation_are_switched(page, records):
    page.open(pipeline0="random_resized_crop(32)")
    page.shows(records, "random_resized_crop(32)")
    page.click(".panel:not([hidden]) .modes label:last-child")
    page.shows(records, "random_resized_crop(32)", training=False)


def test_two_pipelines_are_compared(page, records):
    page.open(pipeline0="resize(40)|flip")
    page.click("#compare")
    page.shows(records, "resize(40)|flip", panel="b")
    page.type("2*(random_resized_crop(24))", panel="b")
    page.shows(records, "2*(random_resized_crop(24))", panel="b")
    page.shows(records, "resize(40)|flip")
    first, second = page.find("#record-0 .views")
    assert first.rect["y"] == second.rect["y"] and first.rect["x"] < second.rect["x"]
    page.click("#compare")
    page.shows(records, "resize(40)|flip")
    assert len(page.find("#record-0 .views")) == 1


def test_the_records_are_walked_through_to_the_end_past_a_broken_one(page, data):
    page.open(pipeline0="resize(16)", first=12)
    page.until(lambda: page.find("#record-17"))
    page.click("#next")
    page.until(lambda: page.find("#record-20 .error"))
    said = page.text("#record-20 .error")
    assert said.startswith(f"{data[1]} at byte ") and "(record 20): " in said
    assert len(page.find(".record")) == 4
    page.until(lambda: page.find("#record-20 .label"))
    assert page.text("#record-20 .label") == "class 20"
    assert page.find("#record-21 .views canvas")
    (following,) = page.find("#next")
    assert not following.is_enabled()
    page.click("#previous")
    page.until(lambda: page.find("#record-12 .views canvas"))


def test_a_record_that_does_not_exist_is_refused_in_words(page):
    page.open(pipeline0="resize(16)")
    (first,) = page.find("#first")
    first.send_keys(Keys.CONTROL, "a")
    first.send_keys("22")
    page.until(lambda: page.text("#trouble"))
    assert page.text("#trouble") == "record must be a whole number from 0 to 21, not '22'"
    page.driver.get_log("browser")  # of the request that was refused
    first.send_keys(Keys.BACKSPACE)
    page.until(lambda: page.find("#record-2") and not page.text("#trouble"))


def test_the_sentence_and_the_python_are_copied(page, records):
    def clipboard():
        return page.driver.execute_async_script(
            "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"
        )

    page.open(seed=7)
    page.type("resize(40)|flip")
    page.shows(records, "resize(40)|flip", seed=7)
    page.click(".panel:not([hidden]) .copy-sentence")
    page.until(lambda: page.text(".panel:not([hidden]) .copy-sentence") == "Copied")
    assert clipboard() == "resize(40)|flip"
    page.click(".panel:not([hidden]) .copy-python")
    page.until(lambda: page.text(".panel:not([hidden]) .copy-python") == "Copied")
    names = {}
    exec(clipboard(), names)
    with names["loader"] as loader:
        assert (loader.pipeline, loader.seed) == (Pipeline("resize(40)|flip"), 7)
        assert loader.records.paths == records.paths
    page.until(lambda: page.text(".panel:not([hidden]) .copy-python") == "Copy Python")


def test_reloading_changes_nothing(page, records):
    page.open()
    page.type("2*(random_resized_crop(24))")
    page.click("#again")
    page.click("#compare")
    page.type("resize(20)", panel="b")
    page.shows(records, "resize(20)", panel="b", seed=1)
    page.driver.refresh()
    page.until(lambda: page.find("#records .source .place"))
    page.shows(records, "2*(random_resized_crop(24))", seed=1)
    page.shows(records, "resize(20)", panel="b", seed=1)


def test_thousands_of_views_do_not_hang_the_page(page):
    page.open(pipeline0="4096*(random_resized_crop(224))")
    page.until(lambda: "4096 views" in page.text("[data-name=a] .message"))
    note = "4096 views of 224x224 · the first 20 views are shown · "
    assert page.text("[data-name=a] .message").startswith(note)
    assert len(page.find("#record-0 .views canvas")) == 20


def test_fast_typing_ends_with_what_was_typed_last(page, records):
    page.open()
    (field,) = page.find("[data-name=a] textarea")
    field.send_keys(Keys.CONTROL, "a")
    text = "2*(random_resized_crop(48)|flip|color_jitter(0.8, 0.8, 0.8, 0.2)|gray(0.2))"
    typing = ActionChains(page.driver)
    for character in text:
        typing.send_keys(character).pause(0.01)
    typing.perform()
    page.shows(records, text)


def test_a_file_of_markup_is_shown_as_text(driver, write_shards, images, tmp_path, page):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    paths = write_shards(folder, [images[0], b"<script>alert(1)</script>"])
    with exploring(paths[0], "--no-browser") as (_, url):
        here = Page(driver, url)
        here.open(pipeline0="'<b>'|flip")
        here.until(lambda: here.find(".wrong"))
        here.type("resize(9)")
        here.until(lambda: here.find("#record-1 .error"))
        assert str(folder) in here.text("#title") and "onerror" in here.text("#record-1 .error")
        assert not here.find("main img, header img, main script, .mirror b")
        page.driver.get("about:blank")
    page.open()


def test_it_is_dark_if_the_system_is(url):
    for dark in (True, False):
        with chromium(dark=dark) as driver:
            page = Page(driver, url)
            page.open()
            root = driver.find_element("css selector", "html")
            colors = [root.value_of_css_property(name) for name in ("background-color", "color")]
            paper, ink = (sum(map(int, color[5:-1].split(",")[:3])) for color in colors)
            assert (paper < 150 and ink > 600) if dark else (paper > 600 and ink < 150)


def test_the_page_says_so_if_the_server_has_ended(driver, data):
    with exploring(data[0], "--no-browser") as (process, url):
        page = Page(driver, url)
        page.open()
        process.kill()
        process.wait()
        page.click("#again")
        page.until(lambda: page.text("#trouble"))
        assert page.text("#trouble") == "the server does not answer: has it ended?"
