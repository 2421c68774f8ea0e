"""The command `pretexture explore` as a process."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

pytest.importorskip("flask")

from explored import PROGRAM, exploring


def ended(data, *flags, **environment):
    """The exit status of a process that must end by itself, and what it says."""
    process = subprocess.run(
        [*PROGRAM, "--data", str(data), *flags],
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert not process.stdout
    return process.returncode, process.stderr


@pytest.fixture
def data(shards):
    return os.path.join(os.path.dirname(shards[0]), "train-*")


def test_it_serves_this_machine_alone_until_ctrl_c(data, no_hang):
    with exploring(data, "--no-browser", "--pipeline", "crop(9)|flip") as (process, url):
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/", url).groups()
        with urllib.request.urlopen(url + "about") as response:
            about = json.load(response)
        assert (about["records"], about["pipeline"]) == (37, "crop(9)|flip")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url.replace(token, "x" * 32))
        # Another address of loopback is refused, and so are those of the network.
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", int(port)))
        # A connection that the browser keeps, and a request in progress, are no obstacle.
        kept = http.client.HTTPConnection("127.0.0.1", int(port))
        kept.request("GET", f"/{token}/about")
        kept.getresponse().read()
        busy = http.client.HTTPConnection("127.0.0.1", int(port))
        busy.request("GET", f"/{token}/views?pipeline=64*(inception(200))&count=32")
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=20)
        assert (process.returncode, said, errors) == (0, "", "")
        kept.close()
        busy.close()


def test_each_start_has_a_token_of_its_own(data, no_hang):
    with exploring(data, "--no-browser") as (_, url), exploring(data, "--no-browser") as (_, other):
        assert url.split("/")[3] != other.split("/")[3]


def test_the_browser_is_opened_with_the_address(data, tmp_path, no_hang):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened.new\n'
                       f"mv {tmp_path}/opened.new {tmp_path}/opened\n")  # fmt: skip
    browser.chmod(0o755)
    with exploring(data, BROWSER=str(browser)) as (_, url):
        opened = tmp_path / "opened"
        while not opened.exists():  # `no_hang` ends a wait in vain
            pass
        assert opened.read_text().strip() == url


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_without_a_screen_no_browser_takes_the_terminal(name, monkeypatch):
    from pretexture.scripts import explore

    opened = []
    monkeypatch.setattr(explore.sys, "platform", "linux")
    monkeypatch.setattr(explore.webbrowser, "open", opened.append)
    for each in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(each, raising=False)
    assert explore.open_browser("http://x/") is None and not opened
    monkeypatch.setenv(name, ":0")
    explore.open_browser("http://x/").join()
    assert opened == ["http://x/"]


def test_a_port_that_is_taken_is_one_line(data):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        status, said = ended(data, "--no-browser", "--port", str(port))
    assert status == 1
    assert said == (
        f"error: cannot listen on port {port} of 127.0.0.1: Address already in use; "
        "--port 0 takes a free one\n"
    )


def test_a_port_can_be_chosen(data, no_hang):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with exploring(data, "--no-browser", "--port", str(port)) as (_, url):
        assert url.startswith(f"http://127.0.0.1:{port}/")


def test_without_flask_one_line_names_the_extra(data, tmp_path):
    (tmp_path / "flask.py").write_text("raise ImportError('there is no Flask')")
    status, said = ended(data, "--no-browser", PYTHONPATH=str(tmp_path))
    assert status == 1 and said.count("\n") == 1
    assert said.endswith("pip install 'pretexture[explore]'\n")


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--pipeline", "crip(32)"], "there is no step 'crip'; did you mean crop"),
        (["--port", "65536"], "must be from 0 to 65535"),
        (["--port", "http"], "invalid"),
    ],
)
def test_wrong_flags_say_what_is_wrong(data, flags, reason):
    status, said = ended(data, "--no-browser", *flags)
    assert status in (1, 2) and reason in said and "Traceback" not in said


def test_missing_data_are_one_line(tmp_path):
    status, said = ended(tmp_path / "none" / "*", "--no-browser")
    assert status == 1 and said == f"error: no file matches {tmp_path}/none/*\n"
