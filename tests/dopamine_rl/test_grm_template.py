from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.contract import RELEASED, Contract
from dopamine_rl.grm.score import answers
from dopamine_rl.grm.template import IMAGE_SLOT, SHORT_TEMPLATE, load_template
from dopamine_rl.grm.tokenizer import build_tokenizer
from dopamine_rl.interfaces import Prompt


@pytest.mark.parametrize("views", [1, 2, 3])
def test_slots_are_2_plus_2v_in_order(views: int) -> None:
    prompt = SHORT_TEMPLATE.render("push the cube", views)
    assert prompt.count(IMAGE_SLOT) == 2 + 2 * views
    places = [
        prompt.index(word) for word in ("Judge", "push the cube", "START", "END", "BEFORE", "AFTER", "Goal", "Answer")
    ]
    assert places == sorted(places)
    assert prompt.startswith("<|im_start|>user")
    assert prompt.endswith("<|im_start|>assistant\n")
    assert prompt[prompt.index("BEFORE") : prompt.index("AFTER")].count(IMAGE_SLOT) == views


def test_it_is_stored_as_data(tmp_path: Path) -> None:
    SHORT_TEMPLATE.save(tmp_path)
    assert load_template(tmp_path) == SHORT_TEMPLATE
    (tmp_path / "template.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"template\.json"):
        load_template(tmp_path)


@pytest.mark.parametrize("text", ["{start}{instruction}{end}{before}{after}", "{instruction}{start}{end}{before}", ""])
def test_slots_must_follow_the_contract(text: str) -> None:
    with pytest.raises(BadInput, match="slots"):
        replace(SHORT_TEMPLATE, text=text)


@pytest.mark.parametrize("instruction", ["", "  ", "push <|image_pad|> it"])
def test_an_instruction_cannot_hold_control_tokens(instruction: str) -> None:
    with pytest.raises(BadInput, match="instruction"):
        SHORT_TEMPLATE.render(instruction, 1)


def test_slot_names_in_an_instruction_are_only_words() -> None:
    prompt = SHORT_TEMPLATE.render("move {after} to {start}", 2)
    assert "move {after} to {start}" in prompt
    assert prompt.count(IMAGE_SLOT) == 6


def test_prompts_are_short_and_answers_are_one_token() -> None:
    tokenizer = build_tokenizer(SHORT_TEMPLATE)
    assert len(tokenizer(SHORT_TEMPLATE.render("insert the peg into the hole", 3))["input_ids"]) < 60
    ids = [tokenizer(answer)["input_ids"] for answer in answers()]
    assert [one for [one] in ids] == list(range(ids[0][0], ids[0][0] + 201))
    text = "Grüße, 把手 – 3 mm!"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_tokenizer_is_deterministic() -> None:
    first, second = (build_tokenizer(SHORT_TEMPLATE).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


THREE = replace(
    SHORT_TEMPLATE,
    text="{instruction} {start}{end} {before}l{before}r{before} {after}l{after}r{after} Only {instruction} counts.",
    view="{image}",
    contract=RELEASED["grm-2.0"],
)


def test_a_template_may_fix_its_views_and_say_the_task_again(tmp_path: Path) -> None:
    prompt = THREE.render("push it", 3)
    assert prompt.replace(IMAGE_SLOT, "*") == "push it ** *l*r* *l*r* Only push it counts."
    THREE.save(tmp_path)
    assert load_template(tmp_path) == THREE
    assert not THREE.save(tmp_path)
    for views in (1, 2, 4):
        with pytest.raises(BadInput, match="give 3 views"):
            THREE.render("push it", views)


@pytest.mark.parametrize("change", [{"text": SHORT_TEMPLATE.text}, {"view": "{label}{image}"}, {"labels": ("front",)}])
def test_fixed_views_are_written_out(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"slots|labels"):
        replace(THREE, **change)


def test_views_without_a_camera_are_the_front_view() -> None:
    assert [THREE.contract.fill(cameras) for cameras in ((4,), (4, 7), (4, 7, 5))] == [(4, 4, 4), (4, 7, 4), (4, 7, 5)]
    prompt = Prompt("push it", (0, 1), (2,), (3, 4))
    assert THREE.fill(prompt) is prompt
    assert SHORT_TEMPLATE.fill(replace(prompt, after=(3,))) == replace(prompt, after=(3,))


def test_an_answer_has_the_form_of_its_contract() -> None:
    assert [contract.format(0.125) for contract in RELEASED.values()] == [
        "<score>+12%</score>",
        "<score>+12.5%</score>",
    ]
    for wrong in ({"views": -1}, {"views": True}, {"answer": "words"}):
        with pytest.raises(BadInput, match="template"):
            Contract(**wrong)


def test_templates_of_embedded_models_keep_their_versions() -> None:
    assert SHORT_TEMPLATE.document().keys() == {"name", "text", "view", "labels"}
