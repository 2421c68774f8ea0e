"""`pretexture explore` as a process, and its page in a browser."""

import contextlib
import os
import shutil
import subprocess
import sys

PROGRAM = [sys.executable, "-m", "pretexture", "explore"]


@contextlib.contextmanager
def exploring(data, *flags, **environment):
    """The process, and the address that it prints."""
    process = subprocess.Popen(
        [*PROGRAM, "--data", str(data), *flags],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        assert lines[2] == "Ctrl-C ends it", process.communicate()
        yield process, lines[1]
    finally:
        process.kill()
        process.communicate()


def missing():
    """What is missing for a browser that a program can use; "" if nothing is."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "there is no Selenium: make test-browser installs it"
    if not _browser() or not shutil.which("chromedriver"):
        return "there is no Chromium with chromedriver: make test-browser installs it"
    return ""


@contextlib.contextmanager
def chromium(width=1400, height=1000, dark=False):
    """A Selenium driver of Chromium without a screen; it allows pages to use the clipboard."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _browser()
    flags = ["--headless=new", "--disable-dev-shm-usage", f"--window-size={width},{height}"]
    if os.getuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses to run as root with it
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        allowed = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        driver.execute_cdp_cmd("Browser.grantPermissions", allowed)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def _browser():
    return shutil.which("chromium") or shutil.which("google-chrome") or ""
