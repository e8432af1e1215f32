"""One parser for every command: a dataclass's options, a preset's settings, mistakes told in one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, UseAppendAction, create_mutex_group

from dopamine_rl.config import dump_toml
from dopamine_rl.errors import BadInput, require
from experiments.runtime.arguments import option, option_names, parse, parse_settings
from experiments.runtime.ending import USAGE, UsageError, command

SOURCE = create_mutex_group(required=True, title="model (one of)")


@dataclass(frozen=True)
class Arguments:
    """A command for tests."""

    episodes: Annotated[Positional[tuple[Path, ...]], option("EPISODE …", "")]
    """Folders of episodes."""
    count: Annotated[int, option("N", aliases=["-n"])] = 3
    """How many of them."""
    stride: Annotated[int | Literal["auto"], option("K")] = "auto"
    """One frame in K."""
    kind: UseAppendAction[tuple[str, ...]] = ()
    """May be given several times."""
    latency_ms: tuple[float, ...] = (50.0,)
    """Of each batch."""
    rule: Literal["paper", "released"] = "paper"
    """How it is rounded."""
    fresh: bool = False
    """Do it again."""
    video: bool = True
    """Write a video."""
    model: Annotated[Path | None, SOURCE, option("FOLDER", "")] = None
    """A model's folder."""
    url: Annotated[str | None, SOURCE, option("URL", "")] = None
    """A service's address."""

    def __post_init__(self) -> None:
        if not self.episodes:
            raise BadInput("EPISODE", None, "give at least one")
        require("", self, ("count", self.count >= 1, "give at least 1"))


@dataclass(frozen=True)
class Rates:
    """How fast."""

    rate: float = 1e-3
    """Step size of the optimizer."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of each layer."""
    frozen: bool = False
    """Whether the encoder stays as it is."""

    def __post_init__(self) -> None:
        require("learner", self, ("rate", self.rate > 0, "give a rate above 0"))


@dataclass(frozen=True)
class Job:
    """Settings for tests."""

    learner: Rates = field(default_factory=Rates)
    """The learner."""
    seed: int = 0
    """Seed of every random number."""

    def __post_init__(self) -> None:
        require("", self, ("seed", self.seed >= 0, "give 0 or more"))


@dataclass(frozen=True)
class JobArguments:
    """Which settings."""

    out: str | None = None
    """Where to."""
    preset: str = "laptop"
    """Sets every setting first."""


def read(*words: str) -> Arguments:
    return parse(Arguments, words, "dopamine x", "Does it.\n\n    dopamine x a\n\nMore of\nit.")


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    (tmp_path / "laptop.toml").write_text("seed = 3\n[learner]\nhidden = [8]\n")
    (tmp_path / "cluster.toml").write_text("[learner]\nrate = 0.5\n")
    return tmp_path


def test_words_become_values_of_their_types() -> None:
    given = read(
        "a", "b", "-n", "4", "--stride", "2", "--kind", "x", "--kind=y", "--latency-ms", "1", "2", "--url", "u"
    )
    assert given == Arguments((Path("a"), Path("b")), 4, 2, ("x", "y"), (1.0, 2.0), url="u")
    assert read("a", "--url", "u", "--stride", "auto", "--fresh", "--no-video").video is False
    assert read("a", "--url", "u", "--fresh", "True", "--video=False") == read(
        "a", "--url", "u", "--fresh", "--no-video"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a", "--url", "u", "--frsh"], "--frsh = None: write --fresh"),
        (["a", "--ulr", "u"], "--ulr = 'u': write --url"),
        (["a", "--url", "u", "--zzz=3"], "--zzz = '3': no such option; see --help"),
        (["a", "--url", "u", "-n", "x"], "--count = 'x': give a whole number (how many of them)"),
        (["a", "--url", "u", "--stride", "3.5"], "--stride = '3.5': give a whole number or auto (one frame in K)"),
        (["a", "--url", "u", "--latency-ms", "1", "x"], "--latency-ms = '1 x': give a number (of each batch)"),
        (["a", "--url", "u", "--rule", "papr"], "--rule = 'papr': write paper; available: paper, released"),
        (["a", "--url"], "--url = None: give text (a service's address)"),
        (["a", "--url", "u", "--fresh=yes"], "arguments = 'yes': remove it: unexpected argument"),
        (["a"], "--model, --url = None: give one of them"),
        (["a", "--url", "u", "--model", "m"], "--model = 'm': remove it or --url: give only one of them"),
        (["--url", "u"], "EPISODE = None: give at least one"),
        (["a", "--url", "u", "--count", "0"], "--count = 0: give at least 1"),
    ],
)
def test_what_is_wrong_is_one_line_with_field_value_and_fix(words: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(*words)
    assert str(caught.value) == told


def test_a_usage_error_ends_a_command_with_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main(argv: list[str] | None = None) -> None:
        read(*(argv or ()))

    with pytest.raises(SystemExit) as ended:
        main(["a", "--url"])
    assert ended.value.code == USAGE
    assert capsys.readouterr() == ("", "error: --url = None: give text (a service's address)\n")


def test_help_keeps_the_lines_of_the_description_and_shows_every_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "Does it.\n\n    dopamine x a\n\nMore of\nit.\n" in text
    for part in ("usage: dopamine x", "EPISODE …", "How many of them. (default: 3)", "--fresh, --no-fresh", "-n N"):
        assert part in text


def test_a_preset_sets_what_the_command_line_does_not(presets: Path) -> None:
    def settings(*words: str) -> tuple[JobArguments, Job]:
        return parse_settings(JobArguments, Job, words, "x", "", presets)

    assert settings() == (JobArguments(), Job(Rates(hidden=(8,)), 3))
    assert settings("--preset", "cluster", "--out", "o", "--learner.hidden", "4", "5", "--learner.frozen", "True") == (
        JobArguments("o", "cluster"),
        Job(Rates(0.5, (4, 5), True)),
    )
    (presets / "own").mkdir()
    own = presets / "own" / "own.toml"
    own.write_text(dump_toml(Job(Rates(frozen=True), 7)))
    assert settings(f"--preset={own}", "--learner.no-frozen")[1] == Job(seed=7)
    assert settings(f"--preset={own}", "--learner.frozen", "False")[1] == Job(seed=7)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--preset", "lapto"], "--preset = 'lapto': write laptop; available: cluster, laptop"),
        (["--preset", "none.toml"], "--preset = 'none.toml': give a readable TOML file (No such file or directory)"),
        (["--learner.raet", "1"], "--learner.raet = '1': write --learner.rate"),
        (["--rate", "1"], "--rate = '1': write --learner.rate"),
        (["--learner.rate", "-1"], "learner.rate = -1.0: give a rate above 0"),
        (["--learner.rate", "inf"], "learner.rate = inf: give a finite number"),
        (["--seed", "-1"], "seed = -1: give 0 or more"),
        (["--learner.hidden", "4", "x"], "--learner.hidden = '4 x': give a whole number (units of each layer)"),
    ],
)
def test_what_is_wrong_with_settings_is_named_as_in_a_preset(words: list[str], told: str, presets: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(JobArguments, Job, words, "x", "", presets)
    assert str(caught.value).startswith(told)


def test_what_is_no_number_is_no_option() -> None:
    with pytest.raises(UsageError, match=r"--latency-ms = \(1\.0, nan\): give a finite number"):
        parse(Arguments, ["e", "--url", "u", "--latency-ms", "1", "nan"], "x", "")


def test_every_option_has_a_name() -> None:
    assert [name for name, _ in option_names(Job)] == [
        "--learner.rate",
        "--learner.hidden",
        "--learner.frozen",
        "--learner.no-frozen",
        "--seed",
    ]
    assert {"--count", "-n", "--no-video", "--stride"} <= {name for name, _ in option_names(Arguments)}
    assert "--episodes" not in {name for name, _ in option_names(Arguments)}
