"""A suggestion is what one slip or two explain; a far-fetched one is worse than none."""

from __future__ import annotations

import pytest

from dopamine_rl.spelling import nearest, nearest_paths, one_of

PATHS = ["seed", "env", "env.stride", "env.horizon", "sft.stride", "sft.target", "sft.train.updates", "learner.gamma"]


@pytest.mark.parametrize(
    ("word", "names", "meant"),
    [
        ("spare", ["grm", "sparse"], "sparse"),
        ("gmr", ["train", "grm"], "grm"),
        ("PickCup", ["PullCube", "PickCube"], "PickCube"),
        ("drop-at-end", ["drop", "drop_at_end"], "drop_at_end"),
        ("pulug", ["PlugCharger"], None),
        ("peg", ["PlugCharger", "PegInsertionSide"], "PegInsertionSide"),
        ("p", ["PegInsertionSide"], None),
        ("pl", ["PlugCharger", "PullCube"], None),
        ("storage", ["target", "name"], None),
        ("learning_rate", ["learning_starts"], None),
        ("", ["grm"], None),
    ],
)
def test_only_a_close_name_is_nearest(word: str, names: list[str], meant: str | None) -> None:
    assert nearest(word, names) == meant
    listed = ", ".join(names)
    assert one_of(word, names) == (f"write {meant}; available: {listed}" if meant else f"give one of {listed}")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("env.strid", ["env.stride"]),  # its own section first
        ("sft.strid", ["sft.stride"]),
        ("stride", ["env.stride", "sft.stride"]),  # then the same name in others
        ("env.updates", ["sft.train.updates"]),
        ("upadtes", ["sft.train.updates"]),
        ("envs.stride", ["env.stride"]),
        ("leaner.gamma", ["learner.gamma"]),
        ("sft.train.plan", []),
        ("sft.train.xyz", []),  # a section in common makes no name similar
        ("storage", []),
    ],
)
def test_names_of_the_same_section_come_first(path: str, meant: list[str]) -> None:
    assert nearest_paths(path, PATHS) == meant
