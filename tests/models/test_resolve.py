"""A name becomes files: from a folder, the hub's cache, the pulled ones, a package, or the hub."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.models.hub import COMMIT, Hub, serving
from tests.tiny import tiny_model_folder

from tunesmith.console import Console
from tunesmith.errors import ModelError
from tunesmith.models import catalogue
from tunesmith.models.fingerprint import fingerprint
from tunesmith.models.resolve import list_models, resolve, where

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache of ours and of the hub's, and no network."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "home"


def hub_cached(tmp_path, hub_id, folder):
    """Put `folder` where the hub client keeps the snapshot of `hub_id`."""
    place = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return place / "snapshots" / COMMIT


def test_a_folder_is_itself(tmp_path):
    folder = tiny_model_folder(tmp_path)
    found = resolve(str(folder))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (found.path, found.origin, found.fingerprint) == (folder, "folder", digest)
    assert found.reference == (str(folder), None)


def test_a_folder_goes_before_a_name_of_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model_folder(tmp_path).rename("gpt2")
    assert resolve("gpt2").origin == "folder"


def test_the_hub_cache_is_used_before_anything_is_fetched(tmp_path):
    folder = tiny_model_folder(tmp_path)
    place = hub_cached(tmp_path, "openai-community/gpt2", folder)
    found = resolve("gpt2")
    assert (found.path, found.origin, found.revision) == (place, "hub-cache", COMMIT)
    assert found.reference == ("openai-community/gpt2", COMMIT)
    assert resolve("openai-community/gpt2").path == place


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_snapshot_with_a_file_missing_is_not_used(tmp_path, lost):
    folder = tiny_model_folder(tmp_path)
    (folder / lost).unlink()
    hub_cached(tmp_path, "openai-community/gpt2", folder)
    assert where("gpt2") is None


def test_shards_make_one_fingerprint_that_any_of_them_changes(tmp_path):
    folder = tiny_model_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for shard in shards:
        (folder / shard).write_bytes(shard.encode())
    before = fingerprint(folder)
    (folder / shards[1]).write_bytes(b"changed")
    assert fingerprint(folder) != before
    (folder / shards[1]).unlink()
    with pytest.raises(ModelError, match=r"not complete: model-00002"):
        resolve(str(folder))


def test_a_fingerprint_is_computed_again_when_the_file_changes(tmp_path):
    folder = tiny_model_folder(tmp_path)
    before = resolve(str(folder)).fingerprint
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert resolve(str(folder)).fingerprint != before


def test_a_fingerprint_needs_no_cache_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "file" / "below"))
    assert len(resolve(str(tiny_model_folder(tmp_path))).fingerprint) == 64


def test_a_folder_without_configuration_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(str(tmp_path / "empty"))


def test_a_folder_without_weights_is_an_error(tmp_path):
    folder = tiny_model_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights in this folder"):
        resolve(str(folder))


def test_an_adapter_alone_is_an_error(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter, not a whole model"):
        resolve(str(tmp_path))


def test_a_missing_gguf_file_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        resolve(str(tmp_path / "absent.gguf"))


def test_a_file_that_is_no_gguf_is_an_error(tmp_path):
    (tmp_path / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelError, match="not a GGUF file"):
        resolve(str(tmp_path / "pointer.gguf"))


def test_a_damaged_gguf_file_is_an_error_and_leaves_nothing(tmp_path, home):
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelError, match="cannot be read"):
        resolve(str(tmp_path / "damaged.gguf"))
    assert [path.name for path in (home / "gguf").iterdir() if path.is_dir()] == []


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match=r"Did you mean 'smollm2-135m-instruct'\?"):
        resolve("smollm2-135m-instrct")


def test_a_missing_folder_is_called_a_folder():
    with pytest.raises(ModelError, match="no model folder"):
        resolve("./models/mine")


def test_a_hub_model_without_network_is_an_error_that_says_so():
    with pytest.raises(ModelError, match="hub cannot be reached"):
        resolve("Qwen/Qwen3-0.6B")


def test_where_fetches_nothing():
    assert where("minilm-l6") is None
    assert where("Qwen/Qwen3-0.6B") is None
    with pytest.raises(ModelError, match="Did you mean"):
        where("minilm-l5")


def test_every_entry_says_where_it_would_come_from(tmp_path):
    hub_cached(tmp_path, "openai-community/gpt2", tiny_model_folder(tmp_path))
    listed = {item.entry.name: item.where for item in list_models()}
    assert listed["smollm2-135m-instruct"] == listed["minilm-l6"] == "package"
    assert listed["gpt2"] == "hub-cache"
    assert listed["qwen3-0.6b"] == "hub"
    assert set(listed) == set(catalogue.catalogue())


def test_every_entry_can_be_fetched_and_names_its_source():
    for entry in catalogue.catalogue().values():
        assert entry.hub or entry.package
        assert entry.name == entry.name.lower()
        assert entry.source


RESOLVE = """
import json, sys
from tunesmith.console import Console
from tunesmith.errors import TunesmithError
from tunesmith.models.resolve import resolve
try:
    found = resolve(sys.argv[1], Console())
    print(json.dumps([found.origin, str(found.path), found.revision, found.fingerprint]))
except TunesmithError as error:
    print(json.dumps(str(error)))
"""


def resolve_elsewhere(tmp_path, url, name):
    """Resolve in a process of its own, whose hub is at `url`."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "hf"),
        "TUNESMITH_HOME": str(tmp_path / "home"),
    }
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, name], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def hub(tmp_path):
    files = {path.name: path.read_bytes() for path in tiny_model_folder(tmp_path).iterdir()}
    useless = {
        "pytorch_model.bin": b"the same weights again",
        "pytorch_model.bin.index.json": b"{}",
        "tf_model.h5": b"and again",
        "onnx/model.onnx": b"and again",
        "README.md": b"words",
    }
    names = {
        "owner/tiny": files | useless,
        "owner/onnx-only": {"config.json": b"{}", "model.onnx": b""},
        "owner/gated": files,
    }
    return Hub(names, gated=("owner/gated",))


def test_the_hub_is_asked_for_the_needed_files_only_and_only_once(tmp_path, hub):
    with serving(hub) as url:
        (origin, path, revision, digest), said = resolve_elsewhere(tmp_path, url, "owner/tiny")
        assert (origin, revision) == ("hub", COMMIT)
        assert (
            digest
            == hashlib.sha256(hub.repositories["owner/tiny"]["model.safetensors"]).hexdigest()
        )
        assert "Fetching owner/tiny from the hub" in said
        assert hub.fetched() == {file.name for file in Path(path).iterdir()}
        assert not hub.fetched() & {"pytorch_model.bin", "tf_model.h5", "README.md"}
        hub.requests.clear()
        (origin, again, _, _), said = resolve_elsewhere(tmp_path, url, "owner/tiny")
    assert (origin, again, said, hub.requests) == ("hub-cache", path, "", [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/absent", "There is no model 'owner/absent'"),
        ("openai-communty/gpt2", "Did you mean 'openai-community/gpt2'?"),
        ("owner/gated", "owner asks to accept terms"),
        ("owner/onnx-only", "no weights that can be trained"),
    ],
)
def test_what_the_hub_cannot_give_is_an_error_that_says_why(tmp_path, hub, name, message):
    with serving(hub) as url:
        answer, _ = resolve_elsewhere(tmp_path, url, name)
    assert message in answer


def test_a_hub_that_does_not_answer_is_an_error(tmp_path):
    answer, _ = resolve_elsewhere(tmp_path, "http://127.0.0.1:9", "owner/tiny")
    assert "hub cannot be reached" in answer
