"""Hub ids: what the cache holds is used as it is; what it does not hold is fetched, or said to be missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.checkpoint import load_grm, model_version
from dopamine_rl.grm.hub import model_folder
from experiments import cli
from tests.dopamine_rl.released import CLONED_WORDING, released_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def in_cache(cache: Path, name: str, model: Path) -> Path:
    """Put a model into a cache, as fetching it does."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(model, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return released_folder(tmp_path_factory.mktemp("released") / "GRM", "qwen2_5_vl", template=False)


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert model_folder(tmp_path) == tmp_path
    assert model_folder(str(tmp_path)) == tmp_path


def test_a_hub_id_is_looked_up_in_the_cache(cache: Path, model: Path, tmp_path: Path) -> None:
    snapshot = in_cache(cache, "lab/grm", model)
    assert model_folder("lab/grm") == model_folder(Path("lab/grm")) == snapshot
    files = sorted(snapshot.iterdir())
    (tmp_path / "wording.txt").write_text(CLONED_WORDING)
    words = ["grm", "import-template", "lab/grm", "--text", str(tmp_path / "wording.txt")]
    with pytest.raises(SystemExit):  # a cache is not changed
        cli.main(words)
    assert sorted(snapshot.iterdir()) == files
    cli.main([*words, "--out", str(tmp_path / "grm")])
    assert load_grm(tmp_path / "grm").model_version == model_version(tmp_path / "grm")
    whole = in_cache(cache, "lab/whole", tmp_path / "grm")
    assert load_grm("lab/whole").folder == whole.resolve()
    assert model_version("lab/whole") == model_version(tmp_path / "grm")


def test_what_is_not_in_the_cache_is_fetched_without_what_is_of_no_use(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict[str, object]] = []
    look_up = huggingface_hub.snapshot_download

    def snapshot_download(name: str, **options: object) -> str:
        asked.append(options)
        return look_up(name, **options) if options.get("local_files_only") else str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_folder("lab/grm") == tmp_path
    assert [options.get("local_files_only") for options in asked] == [True, None]
    assert "*.pt" not in asked[1]["allow_patterns"]  # type: ignore[operator]


def test_without_a_network_it_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lab/grm is neither a folder nor in the .* cache.*hf download lab/grm"):
        model_folder("lab/grm")


@pytest.mark.parametrize("name", ["grm", "/nowhere/grm", "runs/peg/grm", "./lab/grm", "tests/grm", "lab/"])
def test_a_path_with_a_slip_is_never_asked_for(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("it was asked for"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(
        CheckpointError, match="is not a folder: give the folder of a reward model, grm-mini, or a hub id"
    ):
        model_folder(name)


def test_the_shipped_model_has_a_name() -> None:
    folder = model_folder("grm-mini")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20 * 2**20
    assert (folder / "model.safetensors").is_file()
    grm = load_grm("grm-mini")
    assert grm.model_version == model_version(folder)
    card = json.loads((folder / "grm.json").read_text(encoding="utf-8"))["card"]
    assert card["command"].startswith("dopamine grm train ")
    assert card["training"]["seed"] == 0
    assert not any("Peg" in data for data in card["data"])
