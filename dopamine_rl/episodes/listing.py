"""Lists recorded episodes by what a user names: raw folders, LeRobot datasets, folders of videos, or videos.

`open_source` lists episodes for training, which needs annotations; `find_recordings` lists them for scoring, where
videos without annotations are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dopamine_rl.episodes import raw
from dopamine_rl.episodes.cameras import MAX_VIEWS, VIEW_NAMES, describe_cameras
from dopamine_rl.episodes.lerobot import LeRobotSource, episode_name, is_dataset
from dopamine_rl.episodes.raw_source import RawSource
from dopamine_rl.episodes.recordings import Recording
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.texts import counted
from dopamine_rl.types import EpisodeInfo


def open_source(path: Path, cameras: Sequence[str] | None = None) -> RawSource | LeRobotSource:
    """The episodes of a LeRobotDataset, of a folder of raw episodes, or the one raw episode of a folder.

    Args:
        path: the folder.
        cameras: names of the cameras to use, front view first; None leaves the choice to the format.
    Raises:
        BadInput: there are no episodes, or no such camera.
        EpisodeError: a folder of videos among the raw episodes has no keyframes.
    """
    source = _find_source(path, cameras)
    if source is None:
        absence = "" if path.is_dir() else "that is a file: " if path.exists() else "there is no such folder: "
        fix = f"{absence}give a LeRobotDataset v3, or a folder of episodes with {raw.KEYFRAMES}"
        raise BadInput("DATA", str(path), fix)
    for folder in _list_unannotated(path):
        fix = "mark where its sub-tasks begin and end, or keep the episode elsewhere"
        raise raw.malformed(folder, raw.KEYFRAMES, "file", "missing", fix)
    return source


def find_recordings(argument: str, cameras: Sequence[str] | None = None) -> list[Recording]:
    """The episodes that an argument names: FOLDER of one or many, DATASET[#NUMBER], or VIDEO[,VIDEO[,VIDEO]].

    In a folder of raw episodes, those without keyframes come last.

    Args:
        argument: as on the command line.
        cameras: names of the cameras to use in a dataset or folder, front view first; None leaves the choice to the
            format. Not for single videos, whose order already says it.
    Raises:
        BadInput: there is no episode, no such camera, or malformed metadata.
    """
    path, number = split_argument(argument)
    if not path.is_dir():
        return [_of_videos(argument, cameras)]
    if raw.list_videos(path) and not is_dataset(path) and not (path / raw.KEYFRAMES).exists():
        return [_of_folder(path, cameras)]
    source, unannotated = _find_source(path, cameras), _list_unannotated(path)
    if source is None and not unannotated:
        fix = raw.convertible(path) or "it holds neither videos (.mp4) nor episodes' folders; name one that does"
        raise BadInput("EPISODE", str(path), fix)
    annotated = [] if source is None else list_recordings(source, number)
    return [*annotated, *(_of_folder(folder, cameras) for folder in unannotated)]


def list_recordings(source: RawSource | LeRobotSource, number: str | None = None) -> list[Recording]:
    """The episodes of a source, or the one with a number in a dataset; None takes all.

    Raises:
        BadInput: there is no such episode, or malformed metadata.
    """
    if isinstance(source, LeRobotSource):
        episodes = source.episodes() if number is None else [_numbered(source, number)]
        return [_of_dataset(source, info) for info in episodes]
    recordings = [_of_raw(source, name) for name in source.names]
    return [replace(recordings[0], note="\n".join(source.notes)), *recordings[1:]]


def split_argument(argument: str) -> tuple[Path, str | None]:
    """The folder and number of DATASET#NUMBER; else the whole argument and None. A folder's name may contain # too."""
    dataset, mark, number = argument.rpartition("#")
    if mark and not Path(argument).exists() and is_dataset(Path(dataset)):
        return Path(dataset), number
    return Path(argument), None


def check_instructions(episodes: Sequence[EpisodeInfo], otherwise: str = "leave the episode out") -> None:
    """Raise EpisodeError for the first episode without an instruction: it can be neither scored nor trained on.

    Args:
        otherwise: what else to do about it.
    """
    for info in episodes:
        if not info.instructions:
            folder, _, file = info.annotation.rpartition("/")
            raw_file = raw.instructions_of(Path(folder)) if file == raw.KEYFRAMES else None
            files = raw_file or "the dataset's meta/tasks.parquet and meta/episodes"
            fix = f"nobody said its task: write it into {files}, or {otherwise}"
            raise EpisodeError(f"{folder if raw_file else info.episode_id}: task", "", fix)


def passed_over(path: Path) -> list[str]:
    """Names of the folders among raw episodes that are no episodes: they have neither keyframes nor the front camera's
    video."""
    if is_dataset(path) or (path / raw.KEYFRAMES).exists() or not raw.list_episodes(path):
        return []
    folders = (folder for folder in path.glob("[!.]*") if folder.is_dir())
    marks = (raw.KEYFRAMES, f"{raw.CAMERAS[0]}.mp4")
    return sorted(folder.name for folder in folders if not any((folder / mark).exists() for mark in marks))


def _find_source(path: Path, cameras: Sequence[str] | None) -> RawSource | LeRobotSource | None:
    if is_dataset(path):
        return LeRobotSource(path, cameras)
    folders = [path] if (path / raw.KEYFRAMES).exists() else raw.list_episodes(path)
    return RawSource(folders, cameras) if folders else None


def _list_unannotated(path: Path) -> list[Path]:
    """The folders in a folder of raw episodes that have the front camera's video and no keyframes."""
    if is_dataset(path):
        return []
    folders = sorted(video.parent for video in path.glob(f"[!.]*/{raw.CAMERAS[0]}.mp4"))
    return [folder for folder in folders if not (folder / raw.KEYFRAMES).exists()]


def _numbered(source: LeRobotSource, number: str) -> EpisodeInfo:
    argument, last = f"{source.root}#{number}", source.count - 1
    if not (number.isascii() and number.isdecimal() and int(number) <= last):
        fix = f"give a number from 0 to {last}: the dataset has {counted(source.count, 'episode')}"
        raise BadInput("EPISODE", argument, fix)
    name = episode_name(int(number))
    if name in source.left_out:
        fix = f"it has {source.left_out[name]} frames, and an episode needs at least 2: choose another one"
        raise BadInput("EPISODE", argument, fix)
    return source.episode(name)


def _of_dataset(source: LeRobotSource, info: EpisodeInfo) -> Recording:
    return Recording(
        info.episode_id,
        source.videos(info.episode_id),
        info.instructions,
        info.keyframes if info.annotation else None,
        info.success,
        source=source,
        note="\n".join(source.notes),
        stages=info.stages,
    )


def _of_raw(source: RawSource, name: str) -> Recording:
    folder = source.folder(name)
    keyframes, stages = raw.read_keyframes(folder)
    return Recording(
        name,
        source.videos(name),
        raw.find_instructions(folder),
        keyframes,
        raw.read_outcome(folder).success,
        raw.has_transitions(folder),
        source,
        stages=stages,
    )


def _of_folder(folder: Path, cameras: Sequence[str] | None) -> Recording:
    """The episode of a folder of videos without annotation."""
    name, note, names = folder.resolve().name, "", raw.list_videos(folder)
    if cameras is None:
        used = _order_videos(folder, names)
    else:
        used = raw.list_cameras(folder, cameras)
        note = describe_cameras(name, used, names)
    return Recording(name, tuple(folder / f"{camera}.mp4" for camera in used), raw.find_instructions(folder), note=note)


def _order_videos(folder: Path, names: Sequence[str]) -> list[str]:
    """The names of a folder's videos in the order of the views. Raises BadInput where they do not tell it."""
    for ordered in (raw.CAMERAS, VIEW_NAMES):
        if sorted(ordered[: len(names)]) == names:
            return list(ordered[: len(names)])
    raise BadInput(
        "EPISODE",
        str(folder),
        f"it holds {', '.join(names)}.mp4: call them {' '.join(raw.CAMERAS)} (or "
        f"{' '.join(VIEW_NAMES)}), the front view first, or name the front view first: --cameras "
        f"{','.join(names[:MAX_VIEWS])}",
    )


def _of_videos(argument: str, cameras: Sequence[str] | None) -> Recording:
    """The episode of single videos, separated by commas."""
    if cameras is not None:
        raise BadInput("--cameras", ",".join(cameras), "leave it out: VIDEO,VIDEO says the order, the front view first")
    videos = (Path(argument),) if Path(argument).is_file() else tuple(Path(part) for part in argument.split(","))
    for video in videos:
        if not video.is_file():
            fix = "no such file: give an episode's folder, a folder of episodes, or VIDEO[,VIDEO[,VIDEO]]"
            folder, mark, _ = argument.rpartition("#")
            if mark and Path(folder).is_dir():
                fix = f"{folder} is no LeRobotDataset: give FOLDER/EPISODE instead of a number"
            raise BadInput("EPISODE", str(video), fix)
    if len(videos) > MAX_VIEWS:
        raise BadInput("EPISODE", argument, f"give at most {MAX_VIEWS} videos of one episode")
    if len({video.resolve() for video in videos}) < len(videos):
        raise BadInput("EPISODE", argument, "name each video once")
    for cameras_in_order in (raw.CAMERAS, VIEW_NAMES):
        stems = [video.stem for video in videos]
        ordered = [name for name in cameras_in_order if name in stems]
        if len(ordered) == len(stems) and stems != ordered:
            raise BadInput("EPISODE", argument, f"name them in their order, the front view first: {', '.join(ordered)}")
    first = videos[0]
    is_camera = first.stem in (*raw.CAMERAS, *VIEW_NAMES)
    return Recording(first.resolve().parent.name if is_camera else first.stem, videos)
