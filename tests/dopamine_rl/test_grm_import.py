"""A released checkpoint gets its template: wording inside its own chat turn, its preset's contract, its pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.contract import RELEASED
from dopamine_rl.grm.readout import encode_images, forward_logits
from dopamine_rl.grm.released import check_released, install, install_beside, limit_pixels, released_template
from dopamine_rl.grm.template import load_template
from dopamine_rl.grm.wording import Wording, read_pieces
from dopamine_rl.interfaces import Prompt
from tests.dopamine_rl.grm_toys import pictures
from tests.dopamine_rl.released import (
    ARCHITECTURES,
    CHAT_TURNS,
    CLONED_WORDING,
    INSTRUCTION,
    MAX_PIXELS,
    MIN_PIXELS,
    released_folder,
    stock_answers,
)

SLOT = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module", params=ARCHITECTURES)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return released_folder(tmp_path_factory.mktemp("released") / request.param, request.param, template=False)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / original.name)


@pytest.fixture(scope="module")
def wording() -> Wording:
    pieces = read_pieces(CLONED_WORDING)
    assert isinstance(pieces, tuple)
    return Wording("ASK", pieces)


def test_the_prompt_is_what_the_checkpoints_own_chat_template_makes_of_it(original: Path, wording: Wording) -> None:
    template = released_template(original, wording)
    said = CLONED_WORDING.replace("{task}", INSTRUCTION).replace("<image>", SLOT)
    assert template.render(INSTRUCTION, 3) == CHAT_TURNS[original.name] % said
    assert template.contract == RELEASED[{"qwen2_5_vl": "grm-3b", "qwen3_vl": "grm-2.0"}[original.name]]


def test_a_preset_may_be_named(original: Path, wording: Wording) -> None:
    for preset, answer in (("grm-3b", "<score>+12%</score>"), ("grm-2.0", "<score>+12.5%</score>")):
        template = released_template(original, wording, preset)
        assert (template.name, template.contract.format(0.125)) == (preset, answer)


def test_it_is_written_beside_the_weights_once(folder: Path, wording: Wording) -> None:
    with pytest.raises(CheckpointError, match="import-template"):
        load_grm(folder)
    template = released_template(folder, wording)
    assert install(folder, template) == ["template.json"]
    assert load_template(folder) == template == load_grm(folder).template
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert install(folder, released_template(folder, wording)) == []
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_other_limits_of_pictures_become_those_of_the_training(folder: Path, wording: Wording) -> None:
    path = folder / "preprocessor_config.json"
    wide = json.loads(path.read_text().replace(str(MAX_PIXELS), "12845056"))
    path.write_text(json.dumps(wide))
    template = released_template(folder, wording)
    assert install(folder, template, pixels=False) == ["template.json"]
    assert json.loads(path.read_text()) == wide
    assert install(folder, template) == ["preprocessor_config.json"]
    size = load_grm(folder).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (MIN_PIXELS, MAX_PIXELS)


def test_limits_are_set_however_they_are_said() -> None:
    new, old = {"size": {"shortest_edge": 12_544, "longest_edge": 76_800}}, {"min_pixels": 12_544, "max_pixels": 76_800}
    assert limit_pixels({"min_pixels": 1, "max_pixels": 2}) == old
    assert limit_pixels({"size": {"shortest_edge": 1}, "patch_size": 14}) == new | {"patch_size": 14}
    assert limit_pixels({"size": {}, "min_pixels": 1, "max_pixels": 2}) == old | new
    assert limit_pixels({}) == new


def test_a_checkpoint_that_must_not_change_gets_a_folder_beside_it(
    original: Path, wording: Wording, tmp_path: Path
) -> None:
    out, files = tmp_path / "out", sorted(original.iterdir())
    for _ in range(2):
        assert install_beside(original, out, released_template(original, wording)) == ["template.json"]
    assert (out / "model.safetensors").is_symlink()
    assert load_grm(out).template.contract.views == 3
    assert sorted(original.iterdir()) == files
    with pytest.raises(BadInput, match="--out"):
        install_beside(original, original, released_template(original, wording))
    # A hub's cache holds links too; and what somebody added is not replaced.
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in files:
        (snapshot / path.name).symlink_to(path)
    (out / "notes.txt").write_text("precious")
    for folder in (snapshot, out):
        before = sorted(folder.iterdir())
        with pytest.raises(BadInput, match="--out"):
            install_beside(original, folder, released_template(original, wording))
        assert sorted(folder.iterdir()) == before


def test_what_is_no_released_checkpoint_is_refused(folder: Path, wording: Wording, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        check_released(tmp_path)
    (folder / "grm.json").write_text("{}")
    with pytest.raises(CheckpointError, match="written by this project"):
        check_released(folder)


def test_without_a_chat_template_it_says_what_to_copy(folder: Path, wording: Wording) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    chat = config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"there is none.*copy tokenizer_config\.json"):
        released_template(folder, wording)
    if chat is not None:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": chat}))
        assert released_template(folder, wording).text.startswith("<|im_start|>system")


@torch.no_grad()
@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_views_without_a_camera_show_the_front_view(folder: Path, wording: Wording, cameras: int) -> None:
    install(folder, released_template(folder, wording))
    grm, images = load_grm(folder), pictures(8, 3, 120, 120)
    before, after = (2, 3, 4)[:cameras], (5, 6, 7)[:cameras]
    wanted = [{1: (n, n, n), 2: (n, n + 1, n), 3: (n, n + 1, n + 2)}[cameras] for n in (2, 5)]
    log_p = forward_logits(grm, encode_images(grm, images), [Prompt(INSTRUCTION, (0, 1), before, after)])
    stock = stock_answers(grm, images, Prompt(INSTRUCTION, (0, 1), *wanted))
    torch.testing.assert_close(log_p[0], stock, rtol=0, atol=1e-4)


def test_more_cameras_than_views_are_refused(folder: Path, wording: Wording) -> None:
    template = released_template(folder, wording)
    filled = template.fill(Prompt(INSTRUCTION, (0, 1), (2, 3, 4, 5), (2, 3, 4, 5)))
    with pytest.raises(BadInput, match="give 3 views: front, left wrist, right wrist"):
        template.render(INSTRUCTION, len(filled.before))
