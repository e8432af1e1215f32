"""A study file: which arms are compared, with which seeds, and how. No ray import.

    about = "What the shape of the potential costs."
    preset = "laptop"
    seeds = [0, 1, 2]
    baseline = "sparse"

    [curve]
    every = 2000

    [settings.env]                       # of all arms
    lateral_m = 0.03

    [arms.sparse]
    reward = "sparse"

    [arms.oracle]
    reward = "oracle"
    env.stride = 1

A seed draws its own demonstrations, cloned policy, reward model and learner; arms with the same seed share them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dopamine_rl.config import load_table, preset_names
from dopamine_rl.errors import BadInput, require, seed_check
from dopamine_rl.spelling import nearest, one_of
from experiments.job.plans import SETS, largest_set
from experiments.runtime.arguments import PRESETS
from experiments.settings import ExperimentConfig

STUDIES = Path(__file__).resolve().parents[1] / "studies"
"""Studies that come with the project: NAME/study.toml, and the results of their units beside it."""
STUDY_FILE = "study.toml"
PLACES = ("cluster", "service", "simulation", "tracking")
"""Sections of settings that do not change a result."""
OWN = {"name", "seed", "demonstrations.first_seed", "sft.train.seed"}
"""Settings that follow from a unit's seed."""
SPAN = 1000
"""Seeds of a set of demonstrations (experiments.job.plans)."""


@dataclass(frozen=True)
class CurveConfig:
    """Evaluation of the policy during training, without exploration noise."""

    every: int = 2000
    """Environment steps between two points."""
    episodes: int = 50
    """Unseen episodes per point, the same for all points, arms and seeds."""
    first_seed: int = 60_000
    """Seed of the first of them. They are used for nothing else."""

    @property
    def seeds(self) -> range:
        """Environment seeds of these episodes."""
        return range(self.first_seed, self.first_seed + self.episodes)

    def __post_init__(self) -> None:
        require(
            "curve",
            self,
            ("every", self.every >= 1, "give at least 1"),
            ("episodes", self.episodes >= 1, "give at least 1"),
            seed_check("first_seed", self.first_seed),
        )


@dataclass(frozen=True)
class Unit:
    """One training of a study.

    Args:
        arm: name of the arm.
        seed: of demonstrations, cloned policy, reward model and learner.
        config: resolved settings.
    """

    arm: str
    seed: int
    config: ExperimentConfig

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that its result depends on, by dotted name: JSON values."""
        return settings_that_count(self.config)

    @property
    def name(self) -> str:
        """Name of its result and of its folder."""
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study file.

    Args:
        name: of its folder.
        path: the file.
        about: what it asks, in a sentence.
        preset: preset that all arms start from.
        seeds: default seeds.
        baseline: arm that the others are compared with.
        curve: evaluation during training.
        settings: settings of all arms, as nested tables.
        arms: settings of each arm, as nested tables.
    """

    name: str
    path: Path
    about: str
    preset: str
    seeds: tuple[int, ...]
    baseline: str
    curve: CurveConfig
    settings: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    base: ExperimentConfig = field(repr=False)

    @property
    def stride(self) -> int:
        """Environment steps between scored frames, unless an arm has its own."""
        return int(flat(self.settings).get("env.stride", self.base.env.stride))

    def units(self, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> Iterator[Unit]:
        """The trainings of some arms and seeds (by default all), seed by seed.

        Raises:
            BadInput: an arm does not exist, or a setting is invalid.
        """
        for arm in arms:
            if arm not in self.arms:
                raise BadInput("--arms", arm, one_of(arm, list(self.arms)))
        configs = {arm: self._config(arm) for arm in arms or self.arms}
        for seed in seeds or self.seeds:
            for arm, config in configs.items():
                yield Unit(arm, seed, _with_seed(config, seed))

    def _config(self, arm: str) -> ExperimentConfig:
        table = _merged(self.settings, self.arms[arm])
        try:
            config = load_table(ExperimentConfig, table, self.base)
        except BadInput as error:
            field = f"{'settings' if self._fails_alone(error) else f'arms.{arm}'}.{error.field}"
            fix = error.fix.replace(f"[{error.field}]", f"[{field}]")
            raise BadInput(f"{self.path}: {field}", error.value, fix) from error
        self._check_curve(config)
        return config

    def _check_curve(self, config: ExperimentConfig) -> None:
        """Raise BadInput if the curve's episodes are an arm's demonstrations or final episodes."""
        first, ours = config.demonstrations.first_seed, self.curve.seeds
        final = config.evaluation.first_seed
        others = range(first, first + SPAN * len(SETS)), range(final, final + config.evaluation.episodes)
        for used in others:
            if max(ours.start, used.start) < min(ours.stop, used.stop):
                fix = f"choose other seeds than {used.start} to {used.stop - 1}: they are used for something else"
                raise BadInput(f"{self.path}: curve.first_seed", self.curve.first_seed, fix)

    def _fails_alone(self, error: BadInput) -> bool:
        """Whether the settings of all arms have this fault without those of an arm."""
        try:
            load_table(ExperimentConfig, self.settings, self.base)
        except BadInput as alone:
            return str(alone) == str(error)
        return False


def load_study(name: str) -> Study:
    """Read a study by name, or its file or folder by path.

    Raises:
        BadInput: there is no such study, or its file is invalid; names the file and the field.
    """
    path = _find(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput("STUDY", str(path), f"give a readable TOML file: {error}") from error
    try:
        return _study(path, table)
    except BadInput as error:
        raise BadInput(f"{path}: {error.field}", error.value, error.fix) from error


def study_names() -> list[str]:
    """Names of the studies that come with the project."""
    return sorted(path.parent.name for path in STUDIES.glob(f"*/{STUDY_FILE}"))


def _find(name: str) -> Path:
    if name in study_names():
        return STUDIES / name / STUDY_FILE
    path = Path(name)
    found = path / STUDY_FILE if path.is_dir() else path
    if not found.is_file():
        lack = f"there is no {STUDY_FILE} in this folder" if path.is_dir() else "there is no such study or file"
        raise BadInput("STUDY", name, f"{lack}: {one_of(name, study_names())}; or your own file {STUDY_FILE}")
    return found.resolve()


KEYS = {"about": str, "preset": str, "seeds": list, "baseline": str, "curve": dict, "settings": dict, "arms": dict}
_KINDS = {str: "text in quotes", list: "a list in brackets", dict: "a section [{}]"}
"""The values of a key, in words."""


def _misplaced(key: str) -> str:
    """The fix for an unknown key of a study file."""
    if near := nearest(key, KEYS):
        return f"write {near}"
    if key in {setting.name for setting in fields(ExperimentConfig)}:
        return f"write settings.{key}, for all arms, or arms.NAME.{key}"
    return f"remove it, or write one of {', '.join(KEYS)}"


def _study(path: Path, table: Mapping[str, Any]) -> Study:
    for key, value in table.items():
        if key not in KEYS:
            raise BadInput(key, value, _misplaced(key))
        if not isinstance(value, KEYS[key]):
            raise BadInput(key, value, f"write {_KINDS[KEYS[key]].format(key)}")
    arms, seeds = table.get("arms", {}), tuple(table.get("seeds", [0]))
    if not arms:
        raise BadInput("arms", arms, "give at least one arm, as a table [arms.NAME]")
    for arm, settings in arms.items():
        if not re.fullmatch(r"\w+", arm) or not isinstance(settings, dict):
            raise BadInput(f"arms.{arm}", settings, "give a table [arms.NAME]; names have letters, digits and '_'")
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise BadInput("seeds", list(seeds), "give a list of different whole numbers, 0 or more")
    baseline = table.get("baseline", next(iter(arms)))
    if baseline not in arms:
        raise BadInput("baseline", baseline, f"name an arm: {one_of(str(baseline), list(arms))}")
    for owner, settings in {
        "settings": table.get("settings", {}),
        **{f"arms.{arm}": arms[arm] for arm in arms},
    }.items():
        for name in OWN & flat(settings).keys():
            raise BadInput(f"{owner}.{name}", flat(settings)[name], "remove it: every unit gets its own from `seeds`")
    preset = table.get("preset", "laptop")
    base = PRESETS / f"{preset}.toml"
    if not base.is_file():
        raise BadInput("preset", preset, one_of(preset, preset_names(PRESETS)))
    return Study(
        name=path.parent.name if path.name == STUDY_FILE else path.stem,
        path=path,
        about=table.get("about", ""),
        preset=preset,
        seeds=seeds,
        baseline=baseline,
        curve=_curve(table.get("curve", {})),
        settings=table.get("settings", {}),
        arms=arms,
        base=load_table(ExperimentConfig, tomllib.loads(base.read_text(encoding="utf-8")), ExperimentConfig()),
    )


def _curve(table: Mapping[str, Any]) -> CurveConfig:
    try:
        return load_table(CurveConfig, table, CurveConfig())
    except BadInput as error:
        raise BadInput(f"curve.{error.field.removeprefix('curve.')}", error.value, error.fix) from error


def _with_seed(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    """The config with all seeds of this seed: no two seeds share a demonstration.

    Raises:
        BadInput: the sets of demonstrations of so large a seed would overlap.
    """
    size = largest_set(config)
    if (seed + 1) * size > SPAN:
        fix = f"give at most {SPAN // size - 1}: each takes {size} of a set's {SPAN} seeds"
        raise BadInput("seeds", seed, fix)
    first = config.demonstrations.first_seed + seed * size
    train = replace(config.sft.train, seed=seed)
    return replace(
        config,
        seed=seed,
        demonstrations=replace(config.demonstrations, first_seed=first),
        sft=replace(config.sft, train=train),
    )


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables; values of the second replace those of the first."""
    merged = dict(first)
    for name, value in second.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def settings_that_count(config: ExperimentConfig) -> dict[str, Any]:
    """Settings by dotted name, as JSON values, without those that follow from a seed or say where it runs."""
    settings = json.loads(json.dumps(flat(asdict(config))))
    return {name: value for name, value in settings.items() if name not in OWN and name.partition(".")[0] not in PLACES}


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted name."""
    entries: dict[str, Any] = {}
    for name, value in table.items():
        entries |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return entries
