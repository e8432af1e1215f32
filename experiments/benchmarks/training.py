"""Training throughput of the reward model in pairs/s, compared with the stock transformers model.

    dopamine bench training --threads 2

Both arms do the same updates: the same initial weights, prompts, images, loss, gradient clipping and AdamW.

- ours: `Trainer.step`. An image of a batch is encoded once, however many prompts contain it, and shared prefixes of
  prompts are computed once. With two threads, each processes one of an update's two batches; another one prepares the
  next batches.
- naive: every prompt with all of its 2 + 2V images through the stock forward pass, all prompts of an update together
  (in groups of `--group` to fit into memory); image processor and tokenizer are not timed.

First, all gradients of one batch are compared. The arms take turns, update by update; the ratio is the median of their
time ratios over the rounds. With one CPU thread, time is CPU time of the main thread, so other load on the machine
counts less; otherwise it is wall time. MFU is that of ours, relative to the peak of a matrix product on this device.
The last line is JSON; the benchmark needs only torch and transformers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from dopamine_rl.episodes.cameras import MAX_VIEWS
from dopamine_rl.errors import require
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command

if TYPE_CHECKING:
    import torch

    from dopamine_rl.grm.batches import Batch
    from dopamine_rl.grm.config import TrainConfig
    from dopamine_rl.grm.labels import LabelledEpisode
    from dopamine_rl.grm.model import GRM

INSTRUCTION = "insert the peg into the hole"


@dataclass(frozen=True)
class Arguments:
    """Options of the benchmark."""

    rounds: Annotated[int, option("N")] = 9
    """Timed updates per arm."""
    threads: Annotated[int, option("N")] = 1
    """Torch threads of both arms."""
    views: Annotated[int, option("N")] = 2
    """Number of cameras."""
    frames: Annotated[int, option("N")] = 40
    """Frames per episode."""
    group: Annotated[int, option("N")] = 32
    """Prompts per stock forward pass."""
    device: Annotated[str, option("NAME")] = "cpu"
    """Torch device of both arms."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("rounds", self.rounds >= 1, "give at least 1"),
            ("threads", self.threads >= 1, "give at least 1"),
            ("views", 1 <= self.views <= MAX_VIEWS, f"give 1 to {MAX_VIEWS}"),
            ("frames", self.frames >= 8, "give at least 8"),
            ("group", self.group >= 1, "give at least 1"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Compare gradients, time both arms, print the results."""
    print(json.dumps(measure(parse(Arguments, argv, "dopamine bench training", __doc__))))


def measure(arguments: Arguments) -> dict[str, float]:
    """All results."""
    import torch

    from dopamine_rl.grm.batches import in_memory
    from dopamine_rl.grm.config import GRMConfig, TrainConfig
    from dopamine_rl.grm.model import build_grm
    from dopamine_rl.grm.train import Trainer
    from reward_service.engines.transformers import usable_device

    usable_device(arguments.device, "--device")
    torch.set_num_threads(arguments.threads)
    config = TrainConfig(budget_s=0, updates=10_000)
    grm, stock = build_grm(GRMConfig()), build_grm(GRMConfig())
    for model in (grm, stock):
        model.model.to(arguments.device)
    episodes = [_episode(seed, arguments.frames, arguments.views, GRMConfig().image_size) for seed in range(8)]
    batches = in_memory(episodes, config)
    trainer, naive = Trainer(grm, batches, config), Naive(stock, config, arguments.group)
    difference = _difference(grm, config, naive, next(batches([0])))
    clock = time.thread_time if arguments.device == "cpu" and arguments.threads == 1 else time.perf_counter
    rounds = []
    coming = batches(range((1 + arguments.rounds) * config.batches))
    for number in range(1 + arguments.rounds):
        update = list(islice(coming, config.batches))
        prepared = [group for batch in update for group in naive.prepare(batch)]
        own_s = _timed(clock, partial(trainer.step, 0.5), arguments.device)
        naive_s = _timed(clock, partial(naive.step, prepared), arguments.device)
        if number:  # the first one is the warm-up
            rounds.append((sum(len(batch.hops) for batch in update), own_s, naive_s))
    progress = trainer.progress()
    ours = median(pairs / own for pairs, own, _ in rounds)
    return {
        "pairs_per_s": round(ours, 1),
        "naive_pairs_per_s": round(median(pairs / other for pairs, _, other in rounds), 1),
        "ratio": round(median(other / own for _, own, other in rounds), 2),
        "gradient_difference": float(f"{difference:.1e}"),
        "mfu": round(progress.mfu, 4),
        "flops_per_pair": round(progress.flops_per_pair),
        "threads": arguments.threads,
        "views": arguments.views,
        "rounds": arguments.rounds,
        "pairs_per_update": median(pairs for pairs, _, _ in rounds),
        "parameters": grm.parameters,
    }


def _episode(seed: int, frames: int, views: int, size: int) -> LabelledEpisode:
    from dopamine_rl.grm.labels import LabelledEpisode

    pixels = np.random.default_rng(seed).integers(0, 256, (frames, views, size, size, 3), dtype=np.uint8)
    progress = np.linspace(0.0, 1.0, frames, dtype=np.float32)
    return LabelledEpisode((INSTRUCTION,), pixels, progress, np.arange(frames))


def _timed(clock: Callable[[], float], step: Callable[[], object], device: str) -> float:
    import torch

    began = clock()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


class Naive:
    """The stock model, trained like any transformers model.

    Args:
        grm: the model.
        config: training config.
        group: prompts per forward pass.
    """

    def __init__(self, grm: GRM, config: TrainConfig, group: int) -> None:
        from dopamine_rl.grm.train import make_optimizer

        self.grm, self._config, self._group = grm, config, group
        self._optimizer = make_optimizer(grm.model, config)

    def prepare(self, batch: Batch) -> list[dict[str, Any]]:
        """Inputs of the stock forward pass for a batch, by group, with the target hops."""
        import torch

        from dopamine_rl.grm.layout import prompt_layout

        grm, device, groups = self.grm, self.grm.model.device, []
        processed = grm.image_processor(images=list(batch.images), return_tensors="pt")
        pixels = processed["pixel_values"].unflatten(0, (len(batch.images), -1)).to(device)
        grid = processed["image_grid_thw"][:1].to(device)
        _, rows, columns = (grid[0] // grm.model.config.vision_config.spatial_merge_size).tolist()
        views = len(batch.prompts[0].before)
        ids = prompt_layout(grm, INSTRUCTION, views, rows, columns).input_ids
        for first in range(0, len(batch.prompts), self._group):
            prompts = batch.prompts[first : first + self._group]
            images = [image for prompt in prompts for image in prompt.images]
            batch_ids = ids.repeat(len(prompts), 1)
            groups.append(
                {
                    "input_ids": batch_ids,
                    "mm_token_type_ids": (batch_ids == grm.model.config.image_token_id).int(),
                    "pixel_values": pixels[images].flatten(0, 1),
                    "image_grid_thw": grid.repeat(len(images), 1),
                    "hops": torch.from_numpy(batch.hops[first : first + self._group]).to(device),
                }
            )
        return groups

    def backward(self, groups: list[dict[str, Any]]) -> None:
        """Compute the gradients of a batch's mean loss."""
        from dopamine_rl.grm.losses import binned_losses

        grm, config, pairs = self.grm, self._config, sum(len(group["hops"]) for group in groups)
        grm.model.zero_grad(set_to_none=True)
        for group in groups:
            inputs = {name: value for name, value in group.items() if name != "hops"}
            logits = grm.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1, grm.trie.outputs]
            losses = binned_losses(logits.log_softmax(-1), group["hops"], config.label_sigma, config.hop_weight)
            (losses.sum() / pairs).backward()

    def step(self, groups: list[dict[str, Any]]) -> None:
        """One update."""
        import torch

        self.backward(groups)
        torch.nn.utils.clip_grad_norm_(self.grm.model.parameters(), self._config.clip)
        self._optimizer.step()


def _difference(grm: GRM, config: TrainConfig, naive: Naive, batch: Batch) -> float:
    """Largest difference between the arms' gradients, relative to the largest gradient of the same weight."""
    import torch

    from dopamine_rl.grm.train import LossModule

    summed, _ = LossModule(grm, config)(batch, torch.from_numpy(batch.hops).to(grm.model.device))
    (summed / len(batch.hops)).backward()
    naive.backward(naive.prepare(batch))
    pairs = zip(grm.model.parameters(), naive.grm.model.parameters(), strict=True)
    return max(_share(ours.grad, other.grad) for ours, other in pairs)


def _share(ours: torch.Tensor | None, other: torch.Tensor | None) -> float:
    if ours is None or other is None:
        return float("inf")
    return float((ours - other).abs().max() / other.abs().max().clamp(min=1e-6))


if __name__ == "__main__":
    main()
