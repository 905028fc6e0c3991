"""Prepared data sets read from a bucket, which a server on this machine plays."""

import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from mplug2_jax.cli.main import main
from mplug2_jax.data.opening import DataConfig, open_examples, open_texts


class Bucket(DirFileSystem):
    """What gcsfs would be: the folder's files under their addresses."""

    def _join(self, path):
        return os.path.join(self.path, path.removeprefix("gs://bucket/"))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that is gs://bucket; ArrayRecord's own reader fetches the shards."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            name = unquote(urlsplit(self.path).path).split("bucket/")[-1]
            data = (tmp_path / name.removeprefix("o/")).read_bytes()
            whole, bounds = len(data), self.headers.get("Range", "bytes=0-")
            first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", bounds).groups()
            start = int(first) if first else max(whole - int(last), 0)
            end = min(int(last) + 1, whole) if first and last else whole
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{whole}")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            self.wfile.write(data[start:end])

        def log_message(self, *args):
            pass

    files = Bucket(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr(type(backend.fsspec_backend), "fs", lambda self, path: files)
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", address)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path
        server.shutdown()


def test_prepared_sets_are_read_from_a_bucket(bucket):
    for name in ("shapes_images", "shapes_texts"):
        options = ["--data-dir", str(bucket), "--counts", "train=3"]
        assert main(["prepare", name, *options]) == 0
    images, texts = (
        DataConfig(f"gs://bucket/mplug2_data/{name}/1.0.0")
        for name in ("shapes_images", "shapes_texts")
    )
    here = str(bucket / "mplug2_data" / "shapes_images" / "1.0.0")
    found, expected = open_examples(images), open_examples(DataConfig(here))
    assert list(found) == list(expected) and len(found) == 3
    assert found[2].media.data == expected[2].media.data
    assert len(list(open_texts(texts))) == 3


def test_other_files_in_buckets_are_an_error(bucket, tmp_path, capsys):
    for path, media in (("gs://bucket/a.jsonl", ""), (f"{tmp_path}/a.jsonl", "gs://b")):
        with pytest.raises(ValueError, match="is in a bucket, not on this machine"):
            open_examples(DataConfig(path, media))
    with pytest.raises(ValueError, match="is in a bucket, not on this machine"):
        open_texts(DataConfig("gs://bucket/a.txt"))
    assert main(["prepare", "shapes", "--data-dir", "gs://bucket/data"]) == 2
    assert "prepare in a local folder, and copy it there" in capsys.readouterr().err
    options = ["--manual-dir", "gs://bucket/m", "--data-dir", str(tmp_path)]
    assert main(["prepare", "sbu", *options]) == 2
    assert "mount the bucket" in capsys.readouterr().err
    assert not Path("gs:").exists()


def test_what_reads_buckets_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match="install gcsfs, or mount the bucket"):
        open_examples(DataConfig("gs://bucket/set"))
