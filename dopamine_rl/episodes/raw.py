"""Raw GRM episode folders: instructions, annotated keyframes, one video per camera, and optionally our transitions.

    raw/task_instruction.json
    raw/episode_001/annotated_keyframes.json  cam_high.mp4  cam_left_wrist.mp4  cam_right_wrist.mp4  [transitions.npz]

To mark a recording without transitions (as from a real robot) as failed, write only `success` to `transitions.npz`:
`np.savez("transitions.npz", success=False)`, and with it, where the robot knows them, its `tool_poses` (float [F, 7]).
An episode without the file counts as a success.

Source: METHOD.md section 6 (format of the released Robo-Dopamine pipeline). Differs: `transitions.npz` is ours and
optional; with fewer than three views only the first cameras exist.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.cameras import VIDEO_NAMES as CAMERAS
from dopamine_rl.episodes.cameras import find_cameras
from dopamine_rl.episodes.seek import count_frames, frame_times, pictures_at
from dopamine_rl.episodes.video import read_pictures, unreadable, write_video
from dopamine_rl.errors import EpisodeError
from dopamine_rl.files import read_json, read_npz, write_atomically, write_folder_atomically, write_npz
from dopamine_rl.spelling import nearest
from dopamine_rl.texts import counted, missing_key
from dopamine_rl.types import Demonstration, check_views

KEYFRAMES, INSTRUCTIONS, TRANSITIONS = "annotated_keyframes.json", "task_instruction.json", "transitions.npz"
ARRAYS = {
    "observations": 2,
    "actions": 2,
    "task_rewards": 1,
    "frame_steps": 1,
    "terminated": 0,
    "success": 0,
    "seed": 0,
}
"""Arrays of `transitions.npz` and their number of axes: all of them, or `success` without the others."""
FRAME_IDS, STAGE = ("start_frame_id", "end_frame_id"), ("annotation", "anotation")
"""Keys of a segment; the released data misspells the second."""
EXAMPLES = {
    KEYFRAMES: 'a list like [{"annotation": "grasp", "start_frame_id": 0, "end_frame_id": 80}]',
    INSTRUCTIONS: 'a list of at least one sentence, like ["insert the plug"]',
}
"""What the JSON files hold."""
OTHER_VIDEOS = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg")
"""Suffixes of videos; only `.mp4` in small letters is read from a folder."""
FURTHEST_M = 10.0
"""A tool further from its base has been measured in another unit."""
FLAGS = ("success", "terminated", "near_miss")
OPTIONAL_ARRAYS = {"true_progress": 1, "near_miss": 0, "tool_poses": 2}


@dataclass(frozen=True, eq=False, slots=True)
class RawEpisode:
    """An episode in the raw format, without transitions.

    Args:
        episode_id: folder name.
        instructions: wordings of the task.
        keyframes: int [N+1], video frame ids of the sub-task boundaries, strictly increasing.
        stages: N names.
        frame_ids: int [F], video frame id of each of `frames`.
        frames: uint8 [F, V, H, W, 3].
        frame_count: frames in every video.
    """

    episode_id: str
    instructions: tuple[str, ...]
    keyframes: NDArray[np.int64]
    stages: tuple[str, ...]
    frame_ids: NDArray[np.int64]
    frames: NDArray[np.uint8]
    frame_count: int


def write_demonstration(raw_folder: Path, demonstration: Demonstration) -> Path:
    """Write an episode into a folder of raw episodes, atomically and with lossless videos.

    Returns:
        The episode's folder.
    Raises:
        EpisodeError: an episode of this name exists, the folder contains another task, or there are too many views.
    """
    folder = Path(raw_folder) / demonstration.episode_id
    check_views("frames", demonstration.frames, 5)
    views = demonstration.frames.shape[1]
    if views > len(CAMERAS):
        raise malformed(folder, "*.mp4", "views", views, f"record at most {len(CAMERAS)}")
    if folder.exists():
        raise _taken(folder)
    _write_instructions(folder, demonstration.instructions)

    def fill(temporary: Path) -> None:
        for view, camera in enumerate(CAMERAS[:views]):
            write_video(temporary / f"{camera}.mp4", demonstration.frames[:, view])
        (temporary / KEYFRAMES).write_text(json.dumps(_segments(demonstration), indent=2), encoding="utf-8")
        arrays = {name: getattr(demonstration, name) for name in (*ARRAYS, *OPTIONAL_ARRAYS)}
        write_npz(temporary / TRANSITIONS, {name: value for name, value in arrays.items() if value is not None})

    # The temporary name begins with a dot, so `list_episodes` does not list an incomplete episode.
    try:
        return write_folder_atomically(folder, fill, replace=False)
    except FileExistsError as error:
        raise _taken(folder) from error


def list_episodes(raw_folder: Path) -> list[Path]:
    """The complete episodes of a folder, sorted by name."""
    return sorted(path.parent for path in Path(raw_folder).glob(f"[!.]*/{KEYFRAMES}"))


def list_cameras(folder: Path, wanted: Sequence[str] | None = None) -> list[str]:
    """The cameras of an episode in the order of the V axis.

    Args:
        folder: of the episode.
        wanted: names of the videos to use, without .mp4; None means those in `CAMERAS`.
    Raises:
        EpisodeError: there is no such video, or a gap in `CAMERAS`.
        BadInput: a name is given twice.
    """
    if wanted is not None:
        return list(find_cameras(wanted, list_videos(folder), folder.name))
    cameras = [camera for camera in CAMERAS if (folder / f"{camera}.mp4").exists()]
    if cameras != list(CAMERAS[: max(1, len(cameras))]):
        raise malformed(folder, "*.mp4", "cameras", cameras, _missing_camera(folder, cameras))
    return cameras


def _missing_camera(folder: Path, cameras: Sequence[str]) -> str:
    """The fix for an episode without the first of `CAMERAS`, or with a gap in them."""
    missing = next(camera for camera in CAMERAS if camera not in cameras)
    whose = "the front camera's video" if missing == CAMERAS[0] else "a video"
    fixes = [f"put {whose} there as {missing}.mp4", convertible(folder)]
    if others := list_videos(folder):
        fixes.append(f"or name those to use, the front view first: --cameras {','.join(others)}")
    return "; ".join(filter(None, fixes))


def convertible(folder: Path) -> str:
    """The fix for a folder with videos of other formats; "" without any."""
    others = sorted(path.name for path in folder.glob("[!.]*") if path.suffix.lower() in OTHER_VIDEOS)
    other = next((name for name in others if not name.endswith(".mp4")), None)
    return "" if other is None else f"{other} is there: convert it, ffmpeg -i {other} {Path(other).stem}.mp4"


def is_too_short(folder: Path) -> bool:
    """Whether an episode's first video is readable and has fewer than two frames, so nothing can be compared."""
    names = sorted(list_videos(folder), key=lambda name: name != CAMERAS[0])
    try:
        first = folder / f"{names[0]}.mp4" if names else None
        # An index may list too few frames, so count again before calling a video short.
        return first is not None and count_frames(first) < 2 and len(frame_times(first)) < 2
    except ValueError:
        return False


def list_videos(folder: Path) -> list[str]:
    """Names of the videos in a folder, without .mp4 and without hidden files."""
    return sorted(path.stem for path in folder.glob("[!.]*.mp4"))


def read_raw_episode(
    folder: Path,
    frame_ids: Sequence[int] | NDArray[np.int64] | None = None,
    size: tuple[int, int] | None = None,
    cameras: Sequence[str] | None = None,
) -> RawEpisode:
    """Read an episode in the raw format; the cameras' videos are decoded in parallel.

    Args:
        folder: of the episode.
        frame_ids: video frames to decode, strictly increasing. None decodes all, which also detects damaged frames.
        size: (height, width) to resize to; None keeps the recorded size.
        cameras: see `list_cameras`.
    Raises:
        EpisodeError: naming episode, file and field.
    """
    folder = Path(folder)
    instructions = read_instructions(folder)
    keyframes, stages = read_keyframes(folder)
    ids, frames, frame_count = read_frames(folder, frame_ids, size, cameras)
    if keyframes[-1] >= frame_count:
        raise malformed(folder, KEYFRAMES, "frame id", int(keyframes[-1]), past_the_end(frame_count))
    return RawEpisode(folder.name, instructions, keyframes, stages, ids, frames, frame_count)


def read_frames(
    folder: Path,
    frame_ids: Sequence[int] | NDArray[np.int64] | None = None,
    size: tuple[int, int] | None = None,
    cameras: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.uint8], int]:
    """The frame ids, frames uint8 [F, V, H, W, 3] and number of frames of an episode; see `read_raw_episode`."""
    ids = None if frame_ids is None else np.asarray(frame_ids, np.int64)
    if ids is not None and (ids.ndim != 1 or not len(ids) or ids[0] < 0 or (np.diff(ids) <= 0).any()):
        raise malformed(folder, "", "frame_ids", frame_ids, "give increasing ids from 0")
    cameras = list_cameras(folder, cameras)
    with ThreadPoolExecutor(len(cameras)) as threads:
        videos = list(threads.map(lambda camera: _read_video(folder, camera, ids, size), cameras))
    counts = {camera: count for camera, (count, _) in zip(cameras, videos, strict=True)}
    frame_count = videos[0][0]
    if len(set(counts.values())) > 1:
        raise malformed(folder, "*.mp4", "frame count", counts, "record the same number of frames with every camera")
    if ids is not None and ids[-1] >= frame_count:
        raise malformed(folder, "", "frame id", int(ids[-1]), past_the_end(frame_count))
    try:
        frames = np.stack([pictures for _, pictures in videos], axis=1)
    except ValueError:
        shapes = {camera: pictures.shape[1:3] for camera, (_, pictures) in zip(cameras, videos, strict=True)}
        raise malformed(folder, "*.mp4", "picture size", shapes, "record equal sizes, or give a `size`") from None
    return np.arange(frame_count) if ids is None else ids, frames, frame_count


def read_demonstration(folder: Path) -> Demonstration:
    """Read an episode written by `write_demonstration`.

    Raises:
        EpisodeError: naming episode, file and field.
    """
    folder = Path(folder)
    arrays = read_transitions(folder)
    if "actions" not in arrays:
        fix = f"it has only the outcome: give {', '.join(ARRAYS)}"
        raise malformed(folder, TRANSITIONS, "arrays", list(arrays), fix)
    raw = read_raw_episode(folder)
    steps, count = arrays["frame_steps"], len(arrays["actions"])
    check_frame_steps(folder, steps, raw.frame_count, count)
    if len(arrays["observations"]) != count + 1 or len(arrays["task_rewards"]) != count:
        lengths = {name: len(arrays[name]) for name in ("observations", "actions", "task_rewards")}
        raise malformed(folder, TRANSITIONS, "lengths", lengths, "give T + 1 observations, T actions and T rewards")
    truth = arrays.get("true_progress")
    if truth is not None and len(truth) != len(steps):
        raise malformed(
            folder, TRANSITIONS, "true_progress", truth, f"give one value for each of the {len(steps)} frames"
        )
    return Demonstration(
        episode_id=raw.episode_id,
        instructions=raw.instructions,
        frames=raw.frames,
        frame_steps=steps.astype(np.int64),
        keyframes=raw.keyframes,
        stages=raw.stages,
        observations=arrays["observations"].astype(np.float32),
        actions=arrays["actions"].astype(np.float32),
        task_rewards=arrays["task_rewards"].astype(np.float32),
        terminated=bool(arrays["terminated"]),
        success=bool(arrays["success"]),
        seed=int(arrays["seed"]),
        true_progress=None if truth is None else truth.astype(np.float32),
        near_miss=bool(arrays["near_miss"]) if "near_miss" in arrays else None,
        tool_poses=_tool_poses(folder, arrays, len(steps)),
    )


def _tool_poses(folder: Path, arrays: dict[str, NDArray[Any]], count: int | None = None) -> NDArray[np.float32] | None:
    """The tool's poses of `count` frames (None: however many), if they were recorded. Raises EpisodeError."""
    poses = arrays.get("tool_poses")
    if poses is None:
        return None
    if poses.shape != (len(poses) if count is None else count, 7):
        rows = "one row for each frame" if count is None else f"one row for each of {count} frames"
        raise malformed(folder, TRANSITIONS, "tool_poses", poses.shape, f"give {rows}: position (3), quaternion (4)")
    norms, reach = np.linalg.norm(poses[:, 3:], axis=1), np.abs(poses[:, :3]).max(axis=1)
    if (wrong := np.flatnonzero(np.abs(norms - 1.0) > 0.01)).size:
        fix = "give a unit quaternion (x, y, z, w) after the position"
        raise malformed(
            folder, TRANSITIONS, f"tool_poses[{wrong[0]}]", f"a quaternion of norm {norms[wrong[0]]:.3g}", fix
        )
    if (far := np.flatnonzero(reach > FURTHEST_M)).size:
        fix = "give the position in metres from the robot's base"
        raise malformed(folder, TRANSITIONS, f"tool_poses[{far[0]}]", f"{reach[far[0]]:.4g} m away", fix)
    return poses.astype(np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """The recorded outcome of an episode; None for what was not recorded.

    Args:
        success, true_progress, near_miss, frame_steps, tool_poses: as in `EpisodeInfo`, not checked against the videos.
    """

    success: bool | None = None
    true_progress: NDArray[np.float32] | None = None
    near_miss: bool | None = None
    frame_steps: NDArray[np.int64] | None = None
    tool_poses: NDArray[np.float32] | None = None


def read_outcome(folder: Path) -> Outcome:
    """The recorded outcome of an episode. Raises EpisodeError."""
    if not (Path(folder) / TRANSITIONS).exists():
        return Outcome()
    arrays = read_transitions(folder)
    truth, near_miss, steps = (arrays.get(name) for name in ("true_progress", "near_miss", "frame_steps"))
    return Outcome(
        bool(arrays["success"]),
        None if truth is None else truth.astype(np.float32),
        None if near_miss is None else bool(near_miss),
        None if steps is None else steps.astype(np.int64),
        _tool_poses(folder, arrays),
    )


def check_frame_steps(folder: Path, steps: NDArray[Any], frame_count: int, last: int | None = None) -> None:
    """Raise EpisodeError unless every frame has a step, increasing from 0 to at most `last`."""
    is_valid = len(steps) == frame_count and steps[0] == 0 and (np.diff(steps) > 0).all()
    if not is_valid or (last is not None and steps[-1] > last):
        to = "" if last is None else f" to {last}"
        raise malformed(folder, TRANSITIONS, "frame_steps", steps, f"give {frame_count} increasing steps from 0{to}")


def has_transitions(folder: Path) -> bool:
    """Whether an episode has transitions, as `read_demonstration` needs them. Raises EpisodeError."""
    return (Path(folder) / TRANSITIONS).exists() and "actions" in read_transitions(folder)


def malformed(folder: Path, file: str, field: str, value: object, fix: str) -> EpisodeError:
    """The error about a field in a file of an episode, or beside its folder; "" is the folder itself.

    It names the path as the folder was given.
    """
    path = instructions_of(folder) if file == INSTRUCTIONS else folder / file
    return EpisodeError(f"{path}: {field}", value, fix)


def past_the_end(frame_count: int) -> str:
    """The fix for a frame id that is no frame's."""
    return f"give 0 to {frame_count - 1}: the videos have {counted(frame_count, 'frame')}"


def _taken(folder: Path) -> EpisodeError:
    return malformed(folder, "", "episode_id", folder.name, "choose another name, this one exists")


def _segments(demonstration: Demonstration) -> list[dict[str, Any]]:
    # The released pipeline expects the misspelt key.
    ends = zip(demonstration.stages, demonstration.keyframes[:-1], demonstration.keyframes[1:], strict=True)
    return [{"anotation": stage, "start_frame_id": int(a), "end_frame_id": int(b)} for stage, a, b in ends]


def _write_instructions(folder: Path, instructions: tuple[str, ...]) -> None:
    path = folder.parent / INSTRUCTIONS
    text = json.dumps(list(instructions), indent=2)
    try:  # another process may be writing the first episode, too
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), replace=False)
    except FileExistsError:
        if read_instructions(folder) != instructions:
            fix = "a folder has one task: choose another folder"
            raise malformed(folder, INSTRUCTIONS, "instructions", instructions, fix) from None


def _load_json(folder: Path, path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise malformed(folder, path.name, "content", "missing", f"put it at {path}") from error
    except ValueError as error:
        raise malformed(folder, path.name, "content", str(error), f"give {EXAMPLES[path.name]}") from error


def read_instructions(folder: Path) -> tuple[str, ...]:
    """The wordings of an episode's task, from the file next to its folder. Raises EpisodeError if there are none."""
    instructions = find_instructions(folder)
    if not instructions:
        _load_json(folder, instructions_of(folder))  # raises the error about a missing file
        raise malformed(folder, INSTRUCTIONS, "instructions", [], "give a list of at least one sentence")
    return instructions


def find_instructions(folder: Path) -> tuple[str, ...]:
    """The wordings of an episode's task; none if the file is missing or empty.

    The file has a list of sentences or one sentence, either as its content or as `instructions` (or `instruction`) of
    an object.

    Raises:
        EpisodeError: it has other content.
    """
    if not instructions_of(folder).exists():
        return ()
    content = _load_json(folder, instructions_of(folder))
    sentences = content
    if isinstance(content, dict):
        sentence = content.get("instruction")
        sentences = content.get("instructions", sentence if isinstance(sentence, str) else None)
    if isinstance(sentences, str):
        sentences = [sentences]
    if not isinstance(sentences, list) or not all(isinstance(text, str) for text in sentences):
        fix = 'give a list of at least one sentence, or {"instruction": "one sentence"}'
        raise malformed(folder, INSTRUCTIONS, "instructions", content, fix)
    return tuple(text.strip() for text in sentences if text.strip())


def instructions_of(folder: Path) -> Path:
    """The file with the task of the episodes beside this one."""
    named = folder.name not in ("", "..")  # the parent of `.` is `.`
    return (folder if named else folder.resolve()).parent / INSTRUCTIONS


def read_keyframes(folder: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Frame ids of an episode's sub-task boundaries, int64 [N+1], and N names. Raises EpisodeError."""
    segments = _load_json(folder, folder / KEYFRAMES)
    if not isinstance(segments, list) or not segments:
        raise malformed(folder, KEYFRAMES, "segments", segments, f"give {EXAMPLES[KEYFRAMES]}")
    ids: list[int] = []
    stages: list[str] = []
    for i, segment in enumerate(segments):
        start, end, stage = _read_segment(folder, i, segment)
        if ids and start != ids[-1]:
            fix = f"sort the segments by time: one starts at the end of the previous one, here {ids[-1]}"
            raise malformed(folder, KEYFRAMES, f"[{i}].start_frame_id", start, fix)
        if end <= start:
            raise malformed(folder, KEYFRAMES, f"[{i}].end_frame_id", end, f"end after the start, {start}")
        ids = ids or [start]
        ids.append(end)
        stages.append(stage)
    return np.array(ids, np.int64), tuple(stages)


def _read_segment(folder: Path, i: int, segment: Any) -> tuple[int, int, str]:
    if not isinstance(segment, dict):
        raise malformed(folder, KEYFRAMES, f"[{i}]", segment, "give an object")
    for key in FRAME_IDS:
        if key not in segment:
            fix = missing_key(key, segment, (*FRAME_IDS, *STAGE))
            raise malformed(folder, KEYFRAMES, f"[{i}].{key}", "missing", fix)
        if type(segment.get(key)) is not int or not 0 <= segment[key] < 2**31:
            raise malformed(
                folder, KEYFRAMES, f"[{i}].{key}", segment.get(key), "give a frame id: a whole number, 0 or more"
            )
    if not any(key in segment for key in STAGE):
        fix = missing_key(STAGE[0], segment, FRAME_IDS)
        raise malformed(folder, KEYFRAMES, f"[{i}].annotation", "missing", fix)
    stage = next(segment[key] for key in STAGE if key in segment)
    if not isinstance(stage, str) or not stage:
        raise malformed(folder, KEYFRAMES, f"[{i}].annotation", stage, "name the sub-task")
    return segment["start_frame_id"], segment["end_frame_id"], stage


def _read_video(
    folder: Path, camera: str, ids: NDArray[np.int64] | None, size: tuple[int, int] | None
) -> tuple[int, NDArray[np.uint8]]:
    """The number of frames in a video, and the requested ones (None: all), uint8 [F, H, W, 3]."""
    path = folder / f"{camera}.mp4"
    try:
        if ids is None:
            pictures = read_pictures(path, size)
            count = len(pictures)
        else:
            times = frame_times(path)
            count = len(times)
            pictures = pictures_at(path, times[ids[ids < count]], 1e-6, size)
    except ValueError as error:
        raise malformed(folder, "", "video", str(path), unreadable(error)) from error
    if not pictures:
        raise malformed(folder, path.name, "frame count", count, "request existing frames; ids start at 0")
    return count, np.stack(pictures)


def read_transitions(folder: Path) -> dict[str, NDArray[Any]]:
    """All of `ARRAYS`, or of these only `success`, and the existing ones of `OPTIONAL_ARRAYS`."""
    try:
        found = read_npz(folder / TRANSITIONS)
    except ValueError as error:
        fix = "it is damaged, or was not written by numpy.savez: copy it again, or record the episode again"
        raise malformed(folder, TRANSITIONS, "content", str(error), fix) from error
    required = ARRAYS if set(found) & set(ARRAYS) - {"success"} else ("success",)
    names = [*required, *(name for name in OPTIONAL_ARRAYS if name in found)]
    if missing := [name for name in names if name not in found]:
        fix = f"{missing_key(missing[0], found, ARRAYS | OPTIONAL_ARRAYS)}; give all arrays, or success alone"
        raise malformed(folder, TRANSITIONS, missing[0], "missing", f"{fix} (with tool_poses, where there are some)")
    for name in found.keys() - names:
        if meant := nearest(name, OPTIONAL_ARRAYS):
            raise malformed(folder, TRANSITIONS, name, "unknown", f"rename it to {meant}")
    arrays = {name: found[name] for name in names}
    for name, array in arrays.items():
        _check_array(folder, name, array)
    return arrays


def _check_array(folder: Path, name: str, array: NDArray[Any]) -> None:
    """Raise EpisodeError unless an array has the right dimensions and finite numbers; a flag is true or false."""
    ndim = (ARRAYS | OPTIONAL_ARRAYS)[name]
    if array.ndim != ndim or array.dtype.kind not in "biuf":
        kind = f"numbers in {counted(ndim, 'dimension')}" if ndim else "one number"
        fix = "give True or False" if name in FLAGS else f"give {kind}"
        raise malformed(folder, TRANSITIONS, name, f"{array.dtype} of shape {array.shape}", fix)
    if not np.isfinite(array).all():
        place = "".join(f"[{index}]" for index in np.argwhere(~np.isfinite(array))[0])
        raise malformed(folder, TRANSITIONS, name + place, "not finite", "give finite numbers")
    if name in FLAGS and array not in (0, 1):
        raise malformed(folder, TRANSITIONS, name, array, "give True or False")
