"""Scored frames/s of the reward service's scorer, compared with the stock transformers model.

    dopamine bench scorer

The arms have the same weights, batch and threads and answer the same requests, three perspectives per frame:

- ours: `Scorer.score` on requests with raw uint8 frames, until the replies are complete;
- naive: 3 prompts × (2 + 2V) images per frame without sharing, all prompts of the batch in one stock forward pass that
  computes only the last token's logits. The main ratios exclude the time of the stock image processor and tokenizer,
  although ours includes this work; `ratio_with_processing` includes it.
- encoded: ours on the same requests with each frame as tokens of the vision tower in place of pictures, as actors send
  them whose policy looks through that tower; `tower_share` is the share of ours that this saves, and
  `encoded_difference` how far its answers are from ours (models in half precision take no tokens);
- floor: only the unavoidable computation, by our own functions: the V new views of each frame through the vision
  tower, and the part of the frame's three prompts that earlier ones do not share (AFTER three times, BEFORE of the
  incremental).

Cases: `batch_16`, 16 concurrent episodes that each send one new frame; `batch_1`, one such episode; `fragment_16`, one
request with 16 frames of one episode. Every timed frame is new; INIT, GOAL, START, END and the previous frame are
cached. With one CPU thread, time is CPU time of the main thread, which does all the work, so other load on the machine
counts less; otherwise it is wall time. The arms take turns; ratios are medians over the rounds, and those without V in
their name are the worst over V. `--answers text` removes the single-token answers from the tokenizer, so that answers
are spelled as in released checkpoints: ours still reads the whole distribution, naive decodes greedily, constrained to
the answers, and the answers are not compared.

`--architecture released` is a Qwen2.5-VL with the width of the released 3B model but two vision layers (one with
windows) and two language layers; `--architecture 3b` has all its layers, a prompt as long as the released one, and
three cameras with 640×480 pixels. On a GPU:

    dopamine bench scorer --architecture 3b --answers text --device cuda --dtype bfloat16 --frames 4 16

`peak_gib` is then the peak GPU memory of an arm, including weights. Weights are random; compare `max_abs_difference`,
the largest difference between answers, with `answer_spread`, the standard deviation of the gains. The last line is
JSON; the benchmark needs only torch and transformers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from dopamine_rl.episodes.cameras import MAX_VIEWS
from dopamine_rl.errors import require
from experiments.benchmarks.models import make_grm, spell
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command

if TYPE_CHECKING:
    import torch

    from dopamine_rl.grm.model import GRM
    from dopamine_rl.types import ScoreReply, ScoreRequest
    from reward_service.engines.transformers import TransformersEngine

INSTRUCTION = "insert the peg into the hole"


@dataclass(frozen=True)
class Arguments:
    """Options of the benchmark."""

    rounds: Annotated[int, option("N", "15, or 2 of released width")] = 0
    """Turns per arm in each case."""
    threads: Annotated[int, option("N")] = 1
    """Torch threads of both arms."""
    frames: Annotated[tuple[int, ...], option("N …", "16, or 2 of released width")] = ()
    """Frames in the larger batches."""
    views: Annotated[tuple[int, ...], option("N …", "2 and 3, 2 of released width, 3 of 3b")] = ()
    """Numbers of views."""
    architecture: Annotated[Literal["embedded", "released", "3b"], option(aliases=["--width"])] = "embedded"
    """Model architecture."""
    answers: Literal["bins", "text"] = "bins"
    """Single-token answers, or spelled ones."""
    device: Annotated[str, option("NAME")] = "cpu"
    """Torch device of both arms."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Torch dtype of both arms."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("rounds", self.rounds >= 0, "give at least 1, or 0 for the default"),
            ("threads", self.threads >= 1, "give at least 1"),
            ("frames", all(count >= 1 for count in self.frames), "give numbers of at least 1"),
            ("views", all(1 <= count <= MAX_VIEWS for count in self.views), f"give numbers from 1 to {MAX_VIEWS}"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run all cases and print the results."""
    arguments = parse(Arguments, argv, "dopamine bench scorer", __doc__)
    embedded = arguments.architecture == "embedded"
    rounds = arguments.rounds or (15 if embedded else 2)
    frames = list(arguments.frames) or [16 if embedded else 2]
    numbers_of_views = list(arguments.views) or {"embedded": [2, 3], "released": [2], "3b": [3]}[arguments.architecture]

    import torch

    from reward_service.engines.transformers import TransformersEngine, usable_device

    usable_device(arguments.device, "--device")
    torch.set_num_threads(arguments.threads)
    grm = make_grm(arguments.architecture, getattr(torch, arguments.dtype), arguments.device)
    if arguments.answers == "text":
        spell(grm)
    engine = TransformersEngine(grm, device=arguments.device)
    clock = time.thread_time if arguments.device == "cpu" and arguments.threads == 1 else time.perf_counter
    figures: dict[str, dict[str, float]] = {}
    for views in numbers_of_views:
        for case, episodes, length in cases(frames):
            name = f"{case}_v{views}"
            arms = Arms(grm, engine, episodes, length, views, seed=len(figures))
            figures[name] = measure(arms, rounds, clock)
            print(name, json.dumps(figures[name]), flush=True)
    print(json.dumps(summary(figures, max(frames), numbers_of_views)))


def cases(frames: Sequence[int]) -> list[tuple[str, int, int]]:
    """Name, episodes per batch, and new frames per episode."""
    batches = [(f"batch_{count}", count, 1) for count in dict.fromkeys((*frames, 1))]
    longest = max(frames)
    return [*batches, (f"fragment_{longest}", 1, longest)] if longest > 1 else batches  # of one frame: batch_1


class Arms:
    """The three arms on one case, and their requests.

    Args:
        episodes: requests per batch, each of a different episode.
        length: new frames per request.
        views: number of cameras.
        seed: of the images, different in every case.
    """

    def __init__(self, grm: GRM, engine: TransformersEngine, episodes: int, length: int, views: int, seed: int) -> None:
        from dopamine_rl.encoders.tower import TowerEncoder
        from dopamine_rl.types import EpisodeContext
        from reward_service.scorer import Scorer

        self._grm, self._length, self._views = grm, length, views
        self._rng = np.random.default_rng(seed)
        self._size = picture_size(grm)
        self._scorer, self._encoder = Scorer(engine), TowerEncoder(grm.vision)
        self._contexts = [
            EpisodeContext(
                f"e{number}",
                INSTRUCTION,
                self._pictures(),
                self._pictures(),
                self._pictures(views),
                self._pictures(views),
            )
            for number in range(episodes)
        ]
        self._last = [context.init for context in self._contexts]
        self._floor = make_floor(grm, episodes * length, views, self._pictures)

    def _pictures(self, *count: int) -> np.ndarray:
        return self._rng.integers(0, 256, (*count, *self._size, 3), np.uint8)

    def requests(self) -> list[ScoreRequest]:
        """The next frames of every episode."""
        from dopamine_rl.types import ScoreRequest

        batch = []
        for number, context in enumerate(self._contexts):
            frames = self._pictures(self._length, self._views)
            batch.append(ScoreRequest(context, self._last[number], frames, tuple(range(1, self._length + 1)), 1e4))
            self._last[number] = frames[-1]
        return batch

    @property
    def takes_tokens(self) -> bool:
        """Whether the model can be asked about tokens."""
        return bool(self._scorer.tower_version)

    def encoded(self, requests: list[ScoreRequest]) -> list[ScoreRequest]:
        """The same requests with tokens in place of pictures."""
        from dopamine_rl.tokens import FrameTokens

        def tokens(pictures: np.ndarray) -> FrameTokens:
            values = self._encoder.look(pictures.reshape(-1, *pictures.shape[-3:]))[1]
            return FrameTokens(self._scorer.tower_version, values.reshape(*pictures.shape[:-3], *values.shape[1:]))

        return [
            replace(
                request,
                previous=request.previous[:0],
                frames=request.frames[:, :0],
                previous_tokens=tokens(request.previous),
                frame_tokens=tokens(request.frames),
            )
            for request in requests
        ]

    def ours(self, requests: list[ScoreRequest]) -> list[ScoreReply]:
        """Score a batch."""
        return self._scorer.score(requests)

    def process(self, requests: list[ScoreRequest]) -> dict[str, Any]:
        """Inputs of the naive arm: every prompt with all its images, by the stock image processor."""
        from dopamine_rl.grm.layout import prompt_layout

        images: list[np.ndarray] = []
        for request in requests:
            context = request.context
            befores = [request.previous, *request.frames[:-1]]
            for before, after in zip(befores, request.frames, strict=True):
                for anchor in (before, context.init, context.goal):
                    images += [context.reference_start, context.reference_end, *anchor, *after]
        inputs = dict(self._grm.image_processor(images=images, return_tensors="pt"))
        merge = self._grm.model.config.vision_config.spatial_merge_size
        _, rows, columns = (inputs["image_grid_thw"][0] // merge).tolist()
        ids = prompt_layout(self._grm, INSTRUCTION, self._views, rows, columns).input_ids
        ids = ids.repeat(len(images) // (2 + 2 * self._views), 1)
        inputs |= {"input_ids": ids, "mm_token_type_ids": (ids == self._grm.model.config.image_token_id).int()}
        device, dtype = self._grm.model.device, self._grm.model.dtype
        return {name: v.to(device, dtype if v.is_floating_point() else v.dtype) for name, v in inputs.items()}

    def naive(self, inputs: dict[str, Any]) -> np.ndarray | None:
        """Gain and loss, float32 [frames, 3, 2], by one stock forward pass; None if answers are decoded as text."""
        import torch

        from dopamine_rl.grm.readout import binned_hops

        with torch.inference_mode():
            if len(self._grm.trie.tokens):
                allowed = self._allowed(inputs["input_ids"].shape[1])
                self._grm.model.generate(**inputs, max_new_tokens=16, do_sample=False, prefix_allowed_tokens_fn=allowed)
                return None
            logits = self._grm.model(**inputs, logits_to_keep=1).logits[:, -1, self._grm.trie.outputs]
            return torch.stack(binned_hops(logits)[:2], dim=-1).cpu().numpy().reshape(-1, 3, 2)

    def _allowed(self, start: int) -> Callable[[int, torch.Tensor], list[int]]:
        """Allowed next tokens for constrained decoding of an answer that starts at token `start`."""
        from dopamine_rl.grm.score import answers

        following: dict[tuple[int, ...], set[int]] = {}
        for ids in self._grm.tokenizer(list(answers()))["input_ids"]:
            for length, token in enumerate((*ids, self._grm.tokenizer.eos_token_id)):
                following.setdefault(tuple(ids[:length]), set()).add(token)
        end = [self._grm.tokenizer.eos_token_id]
        return lambda _, ids: list(following.get(tuple(ids[start:].tolist()), end))

    def floor(self) -> None:
        """Only the unavoidable computation."""
        self._floor()


def picture_size(grm: GRM) -> tuple[int, int]:
    """Height and width of camera images: square for models trained here, 480 × 640 for released ones."""
    if grm.template.contract.views:
        return 480, 640
    side = round(grm.image_processor.size["shortest_edge"] ** 0.5 + 0.5)
    return side, side


def make_floor(grm: GRM, frames: int, views: int, pictures: Callable[[int], np.ndarray]) -> Callable[[], None]:
    """The unavoidable computation for one batch of frames; everything else is computed in advance."""
    import torch

    from dopamine_rl.grm.layout import missing_prefixes
    from dopamine_rl.grm.readout import Reader

    def names(first: int) -> tuple[int, ...]:
        return tuple(range(first, first + views))

    new, start = pictures(frames * views), frames * views
    with torch.inference_mode():
        reader = Reader(grm)
        old = reader.encode(pictures(2 + 3 * views))
        layout = reader.grid_layout(INSTRUCTION, views, old.rows, old.columns)
        references = (start, start + 1)
        previous, init, goal = (names(start + 2 + i * views) for i in range(3))
        anchors = [previous, *(names(frame * views) for frame in range(frames - 1))]
        questions = [
            (*references, *before, *names(frame * views))
            for frame, anchor in enumerate(anchors)
            for before in (anchor, init, goal)
        ]
        prefixes: dict[tuple[int, ...], torch.Tensor] = {}
        rows = {name: name for name in range(start + 2 + 3 * views)}
        reader.logits(layout, questions, torch.cat((reader.encode(new).tokens, old.tokens)), rows, prefixes)
    shared = {prefix: prefixes[prefix] for prefix in (references, (*references, *init), (*references, *goal))}
    assert len(missing_prefixes(layout, questions, shared)[1]) == frames

    def floor() -> None:
        with torch.inference_mode():
            tokens = torch.cat((reader.encode(new).tokens, old.tokens))
            reader.logits(layout, questions, tokens, rows, dict(shared)).cpu()

    return floor


def measure(arms: Arms, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Times and ratios of one case: medians over the rounds, with the arms in turn."""
    times: dict[str, list[float]] = {name: [] for name in ("ours", "naive", "processing", "floor")}
    times |= {"encoded": []} if arms.takes_tokens else {}
    peaks: dict[str, float] = {}
    differences, encoded_differences, gains = [], [], []
    for number in range(-1, rounds):  # one round to warm up
        requests = arms.requests()
        results: dict[str, Any] = {}
        for name, run in _turns(arms, requests, results):
            memory = PeakMemory()
            begin = clock()
            results[name] = run()
            if number >= 0:
                times[name].append(clock() - begin)
            peaks |= memory.peak(name)
        ours = _answers(results["ours"])
        gains.append(ours[..., 0])
        if results["naive"] is not None:
            differences.append(float(np.abs(ours - results["naive"]).max()))
        if "encoded" in results:
            encoded_differences.append(float(np.abs(ours - _answers(results["encoded"])).max()))
    seconds = {name: np.array(values) for name, values in times.items()}
    frames = len(ours)
    return {
        "ratio": _median(seconds["naive"] / seconds["ours"]),
        "ratio_with_processing": _median((seconds["naive"] + seconds["processing"]) / seconds["ours"]),
        "share_of_floor": _median(seconds["floor"] / seconds["ours"]),
        **({"max_abs_difference": float(f"{max(differences):.2g}")} if differences else {}),
        **_encoded_figures(seconds, encoded_differences),
        "answer_spread": float(f"{np.concatenate(gains).std():.2g}"),
        "frames_per_s": _median(frames / seconds["ours"]),
        **{f"{name}_ms": _median(values * 1e3) for name, values in seconds.items()},
        **peaks,
    }


def _answers(replies: Sequence[ScoreReply]) -> np.ndarray:
    """Gain and loss, float32 [frames, 3, 2]."""
    return np.concatenate([np.stack((reply.gain, reply.loss), axis=-1) for reply in replies])


def _encoded_figures(seconds: dict[str, np.ndarray], differences: list[float]) -> dict[str, float]:
    """What tokens in place of pictures save and change; empty where the model takes none."""
    if not differences:
        return {}
    share = _median(1.0 - seconds["encoded"] / seconds["ours"])
    return {"tower_share": share, "encoded_difference": float(f"{max(differences):.2g}")}


class PeakMemory:
    """Peak GPU memory since its creation; empty without a GPU."""

    def __init__(self) -> None:
        import torch

        self._cuda: Any = torch.cuda if torch.cuda.is_available() else None
        if self._cuda:
            self._cuda.synchronize()
            self._cuda.reset_peak_memory_stats()

    def peak(self, name: str) -> dict[str, float]:
        """The peak of an arm, in GiB."""
        return {f"{name}_peak_gib": round(self._cuda.max_memory_allocated() / 2**30, 2)} if self._cuda else {}


def _turns(
    arms: Arms, requests: list[ScoreRequest], results: dict[str, Any]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "ours", lambda: arms.ours(requests)
    if arms.takes_tokens:
        encoded = arms.encoded(requests)
        yield "encoded", lambda: arms.ours(encoded)
    yield "floor", arms.floor
    yield "processing", lambda: arms.process(requests)
    yield "naive", lambda: arms.naive(results["processing"])


def _median(values: np.ndarray) -> float:
    return round(float(np.median(values)), 3)


def summary(figures: dict[str, dict[str, float]], frames: int, views: list[int]) -> dict[str, float]:
    """The main results, worst over V, and the ratios of every case."""
    large, single = ([figures[f"{case}_v{v}"] for v in views] for case in (f"batch_{frames}", "batch_1"))
    differences = [figure["max_abs_difference"] for figure in figures.values() if "max_abs_difference" in figure]
    return {
        "ratio": min(figure["ratio"] for figure in large),
        "ratio_batch_1": min(figure["ratio"] for figure in single),
        **({"max_abs_difference": max(differences)} if differences else {}),
        "share_of_floor": min(figure["share_of_floor"] for figure in large),
        "share_of_floor_batch_1": min(figure["share_of_floor"] for figure in single),
        **{f"ratio_{name}": figure["ratio"] for name, figure in figures.items()},
    }


if __name__ == "__main__":
    main()
