"""Secrets in URLs reach no message, no log, no name of a file."""

import logging
import os
import re
import stat

import pytest
from pretexture.loader import RecordError, TFRecords
from pretexture.loader.console.redaction import redacted, url_title
from pretexture.loader.shards.remote import FetchError, Storage

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/train-*", "s3://bucket/train-*"),
        ("s3://bucket/train-?????", "s3://bucket/train-?????"),
        ("https://me:hunter2@host:8000/a", "https://***@host:8000/a"),
        ("https://host/a?token=hunter2", "https://host/a?token=***"),
        (
            "https://h/a?X-Amz-Signature=hunter2&v=1#f=2",
            "https://h/a?X-Amz-Signature=***&v=***#f=***",
        ),
        ("https://me:hun@ter2@host", "https://***@host"),
        (
            "see 'https://u:hunter2@h/x' twice: ftp://u:hunter2@h",
            "see 'https://***@h/x' twice: ftp://***@h",
        ),
        ("/a/path@host?x=1", "/a/path@host?x=1"),
    ],
)
def test_what_is_secret_in_a_url_is_replaced(url, shown):
    assert redacted(url) == shown


def test_names_for_files_have_nothing_secret():
    for url in ("https://me:hunter2@host", "https://host/a?token=hunter2", "https://h/b/#hunter2"):
        assert SECRET not in url_title(url)
    assert url_title("s3://bucket/data/train-00000-of-00001") == "train-00000-of-00001"
    assert re.fullmatch(r"[\w.-]*", url_title("https://h/a b|c\n"))


def test_errors_and_logs_and_what_is_printed_have_nothing_secret(caplog):
    url = "https://me:hunter2@host/a?token=hunter2"
    assert SECRET not in str(RecordError(url, 0, 1, f"fetched from {url}"))
    assert SECRET not in str(FetchError(url, f"Cannot connect to {url}"))
    assert SECRET not in FetchError(url, f"Cannot connect to {url}").reason
    assert SECRET not in repr(Storage(storage_options={"secret": SECRET}))
    for name in ("pretexture.loader", "pretexture.trainers"):
        if name.endswith("trainers"):
            pytest.importorskip("pretexture.trainers.runs.mirror")
        logging.getLogger(name).warning("%s failed", url)
    assert SECRET not in caplog.text
    assert caplog.text.count("https://***@host/a?token=*** failed") == 2


def test_what_is_kept_of_a_web_servers_shards_is_private_and_has_no_secret(
    write_shards, images, tmp_path
):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    from servers import web_server

    (tmp_path / "served").mkdir()
    (path,) = write_shards(tmp_path / "served", images[:3])
    server = web_server(tmp_path / "served")
    url = f"http://127.0.0.1:{server.server_port}/{os.path.basename(path)}?token={SECRET}"
    before = os.umask(0)
    try:
        records = TFRecords([url], cache_dir=tmp_path / "cache")
        assert [record.image for record in records] == images[:3]
    finally:
        os.umask(before)
        server.shutdown()
        server.server_close()
    assert SECRET not in repr(records)
    kept = [
        os.path.join(root, name) for root, _, names in os.walk(tmp_path / "cache") for name in names
    ]
    assert len(kept) >= 3  # a copy, its lock, indexes
    for name in kept:
        assert SECRET not in name
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o600
    for root, _, _ in os.walk(tmp_path / "cache"):
        assert stat.S_IMODE(os.stat(root).st_mode) == 0o700
