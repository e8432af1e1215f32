"""Presets, overrides and errors that say what to write instead."""

import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.config import dump_toml, load_preset, preset_names
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.types import FusionConfig


@dataclass(frozen=True)
class Learner:
    """How the policy learns."""

    rate: float = 1e-3
    """Step size of the optimizer."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of each hidden layer."""
    span: tuple[float, str] = (0.5, "a")
    """A pair of unlike values."""
    frozen: bool = False
    """Whether the encoder stays as it is."""
    checkpoint: Path | None = None
    """Where to begin; none begins from scratch."""
    kind: Literal["small", "large"] = "small"
    """Which network."""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise BadInput("learner.rate", self.rate, "give a rate above 0")
        if self.rate > 10:
            raise ValueError("too fast")


@dataclass(frozen=True)
class Job:
    """A job for tests."""

    learner: Learner = field(default_factory=Learner)
    fusion: FusionConfig = field(default_factory=lambda: FusionConfig("consistency"))
    seed: int = 0
    """Seed of every random number."""
    name: str = "run"
    """Name of the folder of results."""


@dataclass(frozen=True)
class Strict:
    """One key is required."""

    seed: int
    """Seed."""


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    (tmp_path / "laptop.toml").write_text('seed = 3\n[learner]\nrate = 1\nhidden = [8]\ncheckpoint = "a/b"\n')
    (tmp_path / "cluster.toml").write_text("[fusion]\nalpha = 5.0\n")
    return tmp_path


def test_a_preset_overrides_defaults_and_keeps_the_rest(presets: Path) -> None:
    assert preset_names(presets) == ["cluster", "laptop"]
    assert load_preset(Job, presets / "laptop.toml") == Job(Learner(1.0, (8,), checkpoint=Path("a/b")), seed=3)
    assert load_preset(Job, presets / "cluster.toml").fusion == FusionConfig("consistency", alpha=5.0)


def load(tmp_path: Path, text: str, cls: type = Job):
    path = tmp_path / "x.toml"
    path.write_text(text)
    return load_preset(cls, path)


@pytest.mark.parametrize(
    ("text", "name", "fix"),
    [
        ("sed = 1", "sed", "write seed"),
        ("[learner]\nraet = 1", "learner.raet", "write learner.rate"),
        ("rate = 1", "rate", "write learner.rate"),
        ("[lerner]\nrate = 1", "lerner", "write learner"),
        ("[fusion]\nrate = 1", "fusion.rate", "write learner.rate"),
        ("zzzzzz = 1", "zzzzzz", "remove it, or write one of: learner, fusion, seed, name"),
        ("storage = 'x'", "storage", "remove it, or write one of: learner"),
        ("[learner]\nspace = 'x'", "learner.space", "remove it, or write one of: learner.rate, learner.hidden"),
        ("seed = 1.5", "seed", "write a whole number"),
        ("seed = true", "seed", "write a whole number"),
        ("name = 1", "name", "write text in quotes"),
        ("learner = 1", "learner", "write a section: a line [learner] with its keys below, or learner.KEY = VALUE"),
        ("[learner]\nrate = 'fast'", "learner.rate", "write a finite number"),
        ("[learner]\nrate = true", "learner.rate", "write a finite number"),
        ("[learner]\nrate = nan", "learner.rate", "write a finite number"),
        ("[learner]\nrate = -1", "learner.rate", "above 0"),
        ("[learner]\nrate = 11", "learner", "too fast"),
        ("[learner]\nkind = 'smal'", "learner.kind", "write small; available: small, large"),
        ("[learner]\nkind = 'medium'", "learner.kind", "give one of small, large"),
        ("[learner]\nkind = 1", "learner.kind", "give one of small, large"),
        ("[learner]\nhidden = 8", "learner.hidden", "write a list in brackets"),
        ("[learner]\nhidden = [8, 'x']", "learner.hidden[1]", "write a whole number"),
        ("[learner]\nspan = [1.0]", "learner.span", "2 values"),
        ("[learner]\nfrozen = 1", "learner.frozen", "write true or false"),
        ("[learner]\ncheckpoint = 5", "learner.checkpoint", "write a path in quotes"),
        ("seed = ", "preset", "readable TOML"),
    ],
)
def test_errors_name_field_value_and_fix(tmp_path: Path, text: str, name: str, fix: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, text)
    assert caught.value.field == name
    assert fix in caught.value.fix


def test_missing_keys_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="seed"):
        load(tmp_path, "", Strict)
    assert load(tmp_path, "seed = 4", Strict) == Strict(4)
    with pytest.raises(BadInput, match="readable"):
        load_preset(Job, tmp_path / "none.toml")


def test_errors_travel_between_processes() -> None:
    for error in (BadInput("a.b", [1], "give 2"), EpisodeError("e/f: g", None, "write it")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.field, copy.value, copy.fix) == (type(error), error.field, error.value, error.fix)
        assert str(copy) == str(error) == f"{error.field} = {error.value!r}: {error.fix}"
    assert len(str(BadInput("a", "x" * 1000, "shorten it"))) < 300


learners = st.builds(
    Learner,
    rate=st.floats(1e-300, 10, exclude_min=True),
    hidden=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple),
    span=st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(codec="utf-8"), max_size=8)),
    frozen=st.booleans(),
    checkpoint=st.none() | st.just(Path("/a b/ü.pt")),
    kind=st.sampled_from(["small", "large"]),
)


@settings(max_examples=100, deadline=None)
@given(st.builds(Job, learner=learners, name=st.text(st.characters(codec="utf-8"), max_size=20)))
def test_a_dumped_configuration_loads_as_an_equal_one(tmp_path_factory: pytest.TempPathFactory, job: Job) -> None:
    path = tmp_path_factory.mktemp("dump") / "config.toml"
    path.write_bytes(dump_toml(job).encode())
    assert load_preset(Job, path) == job


def test_what_toml_cannot_write_is_refused() -> None:
    for job in (
        replace(Job(), name=None),
        replace(Job(), name=b"x"),
        replace(Job(), learner=Learner(span=(1e999, ""))),
    ):
        with pytest.raises(BadInput):
            dump_toml(job)
