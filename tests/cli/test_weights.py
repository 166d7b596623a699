"""`frozenseg weights`, against a server of our own."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from frozenseg.cli import main
from frozenseg.errors import UserInputError
from frozenseg.model.download import get_weights
from frozenseg.model.official import OFFICIAL_WEIGHTS, OfficialWeights, local_sam, official, weights_folder

CONTENT = bytes(range(256)) * 40_000


@dataclasses.dataclass
class Server:
    """address, and the Range headers that were asked for; cut: send only so many bytes."""

    address: str
    ranges: list[str | None]
    cut: int | None = None
    can_resume: bool = True


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(address="", ranges=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/file.bin":
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.can_resume else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : state.cut])

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{running.server_port}"
    yield state
    running.shutdown()
    running.server_close()
    thread.join()


def entry(url: str) -> OfficialWeights:
    return OfficialWeights(
        name="test", kind="sam", architecture="vit_b", tag="", file_name="file.bin", url=url, num_bytes=len(CONTENT),
        hash_name="sha256", hash_prefix=hashlib.sha256(CONTENT).hexdigest()[:8], licence="none",
    )  # fmt: skip


def test_a_broken_download_is_resumed(server: Server, tmp_path: Path) -> None:
    wanted = entry(server.address + "/file.bin")
    server.cut = 3_000_000
    with pytest.raises(UserInputError, match="kept and resumed"):
        get_weights(wanted, tmp_path)
    have = (tmp_path / "file.bin.part").stat().st_size
    assert have > 0
    server.cut = None
    assert get_weights(wanted, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={have}-"]
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    get_weights(wanted, tmp_path)  # nothing is asked for a second time
    assert len(server.ranges) == 2


def test_a_server_that_cannot_resume_sends_it_all(server: Server, tmp_path: Path) -> None:
    server.can_resume = False
    (tmp_path / "file.bin.part").write_bytes(b"begun")
    assert get_weights(entry(server.address + "/file.bin"), tmp_path).read_bytes() == CONTENT


def test_what_is_not_the_official_file_is_removed(server: Server, tmp_path: Path) -> None:
    for change, part in (({"hash_prefix": "00000000"}, "expected sha256"), ({"num_bytes": 5}, "expected 5 bytes")):
        wanted = dataclasses.replace(entry(server.address + "/file.bin"), **change)
        with pytest.raises(UserInputError, match=part):
            get_weights(wanted, tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_mirrors_and_local_folders(server: Server, tmp_path: Path) -> None:
    wanted = entry("http://127.0.0.1:9/nothing")
    assert get_weights(wanted, tmp_path / "a", mirror=server.address + "/").read_bytes() == CONTENT
    assert get_weights(wanted, tmp_path / "b", mirror=str(tmp_path / "a")).read_bytes() == CONTENT
    with pytest.raises(UserInputError, match=r"does not hold file\.bin"):
        get_weights(wanted, tmp_path / "c", mirror=str(tmp_path))
    with pytest.raises(UserInputError, match="answered 404"):
        get_weights(wanted, tmp_path / "c", mirror=server.address + "/elsewhere")


def test_offline_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["weights", "get", "sam-vit-b", "--mirror", "http://127.0.0.1:9", "--to", str(tmp_path)])
    assert code == 2
    error = capsys.readouterr().err
    assert "offline?" in error
    assert error.count("\n") == 1
    assert main(["weights", "get", "sam-vit-x"]) == 2
    assert "did you mean 'sam-vit-" in capsys.readouterr().err


def test_list_states_sources_and_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    output = capsys.readouterr().out
    for known in OFFICIAL_WEIGHTS:
        assert known.url in output
        assert known.licence in output
    assert official("sam-vit-h").file_name == "sam_vit_h_4b8939.pth"
    assert official("sam-vit-h").hash_prefix == "4b8939"


def test_check_finds_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["weights", "check", "--folder", str(tmp_path)]) == 0
    (tmp_path / "sam_vit_l_0b3195.pth").write_bytes(b"rubbish")
    assert main(["weights", "check", "--folder", str(tmp_path)]) == 1
    assert "expected md5 0b3195" in capsys.readouterr().out
    monkeypatch.setenv("FROZENSEG_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path
    assert local_sam("sam_vit_l_0b3195.pth").parent == tmp_path
    with pytest.raises(UserInputError, match="weights get sam-vit-h"):
        local_sam("sam_vit_h_4b8939.pth")


def test_tags_are_those_of_open_clip() -> None:
    from open_clip.pretrained import get_pretrained_cfg

    for known in OFFICIAL_WEIGHTS:
        if known.kind == "clip":
            config = get_pretrained_cfg(known.architecture, known.tag)
            assert config
            assert config.get("url") == known.url or config["hf_hub"].strip("/") in known.url
