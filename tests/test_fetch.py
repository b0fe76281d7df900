"""Downloads, from a server on this machine: verified, resumed, unpacked safely, or refused."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pooch
import pytest

from corrlib import fetch
from corrlib.errors import InputError
from corrlib.fetch import Archive, RemoteFile

CONTENT = bytes(range(256)) * 200


class Server:
    """Serves ``content``; ``cut`` breaks off the next answer after so many bytes."""

    def __init__(self):
        self.content, self.cut, self.ranges, self.asked = CONTENT, None, True, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range") if server.ranges else None
                server.asked.append(self.headers.get("Range"))
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
                if self.path == "/absent":
                    self.send_error(404)
                    return
                if wanted and start >= len(server.content):
                    self.send_error(416)
                    return
                body = server.content[start:]
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                cut, server.cut = server.cut, None
                self.wfile.write(body[:cut])

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/file"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def file(self, **changes) -> RemoteFile:
        return RemoteFile(
            name=changes.pop("name", "data.bin"),
            urls=changes.pop("urls", (self.url,)),
            sha256=changes.pop("sha256", hashlib.sha256(self.content).hexdigest()),
            size=changes.pop("size", len(self.content)),
            licence="CC0",
            source="this test",
        )


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def names(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def refused(call, *arguments, match=None, **options) -> str:
    with pytest.raises(InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# One file


def test_a_file_is_downloaded_once(server, tmp_path):
    path = fetch.download(server.file(), tmp_path / "new")
    assert path == tmp_path / "new/data.bin" and path.read_bytes() == CONTENT
    assert fetch.download(server.file(), tmp_path / "new") == path
    assert len(server.asked) == 1 and names(tmp_path / "new") == ["data.bin"]


def test_the_report_tells_how_far_it_is(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "CHUNK", 1000)
    told = []
    fetch.download(server.file(), tmp_path, told.append)
    assert [re.search(r"(\d+) %", line)[1] for line in told] == [str(10 * i) for i in range(1, 11)]


@pytest.mark.parametrize("size", [len(CONTENT), 0])
def test_a_download_that_broke_off_goes_on(server, tmp_path, size):
    server.cut = 12_345
    refused(fetch.download, server.file(size=size), tmp_path, match="data.bin")
    assert names(tmp_path) == ["data.bin.part"]
    path = fetch.download(server.file(size=size), tmp_path)
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["data.bin"]
    assert server.asked == [None, "bytes=12345-"]


def test_a_server_that_starts_anew_is_no_trouble(server, tmp_path):
    server.ranges = False
    server.cut = 10_000
    refused(fetch.download, server.file(), tmp_path)
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), 0])
def test_a_whole_part_needs_verifying_only(server, tmp_path, size):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch.download(server.file(size=size), tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["data.bin"]


def test_an_interruption_keeps_what_came(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "CHUNK", 1000)

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.download(server.file(), tmp_path, interrupt)
    assert names(tmp_path) == ["data.bin.part"]
    assert fetch.download(server.file(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), 0])
def test_another_content_is_refused_and_not_kept(server, tmp_path, size):
    file = server.file(size=size)
    server.content = CONTENT[::-1]
    refused(fetch.download, file, tmp_path, match="could not download")
    assert names(tmp_path) == []
    server.content = CONTENT
    assert fetch.download(file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"<html>sign in</html>", CONTENT + b"more"])
def test_a_content_of_another_size_is_refused(server, tmp_path, content):
    file = server.file()
    server.content = content
    refused(fetch.download, file, tmp_path, match="bytes")
    assert not (tmp_path / "data.bin").exists()


def test_a_file_that_is_there_but_differs_is_left_alone(server, tmp_path):
    (tmp_path / "data.bin").write_text("mine")
    refused(fetch.download, server.file(), tmp_path, match="SHA-256")
    assert (tmp_path / "data.bin").read_text() == "mine" and not server.asked


def test_mirrors_are_tried_in_turn(server, tmp_path):
    absent = server.url.replace("/file", "/absent")
    file = server.file(urls=(absent, server.url))
    assert fetch.download(file, tmp_path).read_bytes() == CONTENT
    message = refused(fetch.download, server.file(name="b", urls=(absent,)), tmp_path, match="404")
    assert str(tmp_path / "b") in message


@pytest.mark.parametrize(
    "error", [URLError("no network\nat all"), TimeoutError("slow"), ConnectionResetError("gone")]
)
def test_without_a_network_one_line_says_so(server, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(fetch.urllib.request, "urlopen", fail)
    message = refused(fetch.download, server.file(), tmp_path, match="could not download")
    assert "127.0.0.1" in message and names(tmp_path) == []


def test_a_folder_that_cannot_be_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("")
    refused(fetch.download, server.file(), tmp_path / "file", match="folder")


def test_pooch_is_kept_quiet_and_given_back_its_voice(server, tmp_path, capfd):
    level = pooch.get_logger().level
    fetch.download(server.file(), tmp_path)
    assert pooch.get_logger().level == level
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


# Zip files


def packed(path, entries) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in entries:
            target.writestr(name, content)


def test_a_zip_is_unpacked_without_its_top_folder(tmp_path):
    packed(tmp_path / "a.zip", [("DATA/", ""), ("DATA/x/1.txt", "one"), ("DATA/2.txt", "two")])
    fetch.unpack(tmp_path / "a.zip", tmp_path / "out", top="DATA", most=100)
    assert names(tmp_path / "out") == ["2.txt", "x", "x/1.txt"]
    assert (tmp_path / "out/x/1.txt").read_text() == "one"


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("DATA/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "entry",
    ["DATA/../../evil", "../evil", "/etc/evil", "DATA/..\\evil", "C:/evil", "DATA/a:b", link()],
)
def test_what_would_leave_the_folder_is_refused(tmp_path, entry):
    packed(tmp_path / "in.zip", [("DATA/fine", "fine"), (entry, "/etc/passwd")])
    refused(
        fetch.unpack,
        tmp_path / "in.zip",
        tmp_path / "deep/out",
        top="DATA",
        most=1000,
        match="plain files|to hold a folder",
    )
    assert names(tmp_path) == ["deep", "in.zip"]


def test_another_top_folder_is_refused(tmp_path):
    packed(tmp_path / "in.zip", [("OTHER/fine", "fine")])
    refused(fetch.unpack, tmp_path / "in.zip", tmp_path / "out", top="DATA", most=9, match="OTHER")


def test_too_much_is_refused_before_it_is_written(tmp_path):
    packed(tmp_path / "in.zip", [("DATA/zeros", bytes(100_000))])
    refused(fetch.unpack, tmp_path / "in.zip", tmp_path / "out", top="DATA", most=99_999)
    assert names(tmp_path) == ["in.zip"]


def test_a_header_that_lies_about_the_size_yields_no_more_than_it_says(tmp_path):
    packed(tmp_path / "in.zip", [("DATA/zeros", bytes(100_000))])
    content = (tmp_path / "in.zip").read_bytes()
    lie = content.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "in.zip").write_bytes(lie)
    refused(fetch.unpack, tmp_path / "in.zip", tmp_path / "out", top="DATA", most=1000)
    assert names(tmp_path) == ["in.zip"]


@pytest.mark.parametrize("keep", [0, 30, -20])
def test_a_broken_zip_is_refused(tmp_path, keep):
    packed(tmp_path / "in.zip", [("DATA/text", "text" * 99), ("DATA/more", "more")])
    content = (tmp_path / "in.zip").read_bytes()
    (tmp_path / "in.zip").write_bytes(content[:keep])
    refused(
        fetch.unpack, tmp_path / "in.zip", tmp_path / "out", top="DATA", most=999, match="zip file"
    )
    assert names(tmp_path) == ["in.zip"]


# Data sets


@pytest.fixture
def data_set(server, monkeypatch):
    content = io.BytesIO()
    packed(content, [("TINY/lists/val.txt", "one\n"), ("TINY/frames/one/0.jpg", "jpeg")])
    server.content = content.getvalue()
    archive = Archive(server.file(name="tiny.zip"), "Tiny", "TINY", "lists/val.txt", 1000)
    monkeypatch.setitem(fetch.ARCHIVES, "tiny", archive)
    return archive


def test_a_data_set_is_fetched_once(server, data_set, tmp_path):
    told = []
    folder = fetch.fetch("tiny", tmp_path / "data", told.append)
    assert names(tmp_path / "data") == [
        "Tiny",
        "Tiny/frames",
        "Tiny/frames/one",
        "Tiny/frames/one/0.jpg",
        "Tiny/lists",
        "Tiny/lists/val.txt",
    ]
    assert "MB" in told[0] and "CC0" in told[0]  # size and licence come first
    assert fetch.fetch("tiny", tmp_path / "data") == folder and len(server.asked) == 1


def test_a_data_set_is_fetched_after_an_interruption(server, data_set, tmp_path, monkeypatch):
    server.cut = 50
    refused(fetch.fetch, "tiny", tmp_path)
    assert names(tmp_path) == ["tiny.zip.part"]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch.shutil, "copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch("tiny", tmp_path)
    assert names(tmp_path) == ["tiny.zip"]
    assert (fetch.fetch("tiny", tmp_path) / "lists/val.txt").read_text() == "one\n"


def test_a_folder_with_something_else_is_left_alone(server, data_set, tmp_path):
    (tmp_path / "Tiny").mkdir()
    (tmp_path / "Tiny/mine").write_text("mine")
    refused(fetch.fetch, "tiny", tmp_path, match="another root")
    assert names(tmp_path) == ["Tiny", "Tiny/mine"] and not server.asked


def test_a_full_disk_is_told_before_the_download(server, data_set, tmp_path, monkeypatch):
    large = replace(data_set, unpacked=10**18)
    monkeypatch.setitem(fetch.ARCHIVES, "tiny", large)
    refused(fetch.fetch, "tiny", tmp_path / "not/there", match="free")
    assert not server.asked and names(tmp_path) == []


@pytest.mark.parametrize("name", ["davis-2016", "jhmdb", "vip"])
def test_what_has_no_published_hash_is_had_by_hand(name, tmp_path):
    assert re.search("https?://", refused(fetch.fetch, name, tmp_path, match="SHA-256"))
    assert names(tmp_path) == []


def test_an_unknown_name_lists_the_known(tmp_path):
    message = refused(fetch.fetch, "kinetics", tmp_path, match="kinetics")
    assert all(name in message for name in ("davis-2016", "davis-2017", "jhmdb", "vip"))


def test_the_registry_is_complete():
    for file in (fetch.DINO, *(archive.file for archive in fetch.ARCHIVES.values())):
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.licence and file.source and all(url.startswith("https://") for url in file.urls)
    assert not set(fetch.ARCHIVES) & set(fetch.BY_HAND)
