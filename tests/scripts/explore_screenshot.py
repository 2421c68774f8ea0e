"""Makes the picture of `pretexture explore` in the documentation, in Chromium.

make demo test-browser
.venv/bin/python tests/scripts/explore_screenshot.py demo-data docs/explore.jpg
"""

import base64
import pathlib
import sys
from urllib.parse import urlencode

from explored import chromium, exploring
from pretexture.loader import presets
from selenium.webdriver.support.ui import WebDriverWait

CHOSEN = {
    "compare": "on",
    "first": 256,
    "pipeline0": str(presets.SIMCLR),
    "pipeline1": "resize(224)|gray(0.3)|patches(3, jitter=10)|jigsaw",
}


def main(data, out):
    """Opens the page of a folder of shards, waits for its views and takes a picture."""
    with exploring(data, "--no-browser") as (_, url), chromium(1440, 1000) as driver:
        driver.get(f"{url}#{urlencode(CHOSEN)}")
        sources = ".record:first-child .source .place"
        WebDriverWait(driver, 30).until(lambda _: driver.find_elements("css selector", sources))
        WebDriverWait(driver, 30).until(
            lambda _: len(driver.find_elements("css selector", ".record:last-child canvas")) > 10
        )
        # The first views take longer than later ones, and the page says how long.
        driver.find_element("id", "again").click()
        WebDriverWait(driver, 30).until(
            lambda _: (
                not driver.find_elements("css selector", ".stale")
                and all(
                    " ms" in said.text for said in driver.find_elements("css selector", ".message")
                )
            )
        )
        options = {"format": "jpeg", "quality": 90}
        picture = driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    pathlib.Path(out).write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
