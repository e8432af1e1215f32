"""Questions a second of the reward model's training, against the model as transformers runs it.

    dopamine bench training --threads 2

Both arms make the same updates: equal weights at the start, the same questions about the same pictures, loss, clipping and AdamW.

- ours: `Trainer.step`. A picture of a batch is encoded once, however many questions show it, and what prompts have in common is
  computed once. With two threads each has one of an update's two batches; a further one prepares the coming ones.
- naive: every question with all of its 2 + 2V pictures through the stock forward pass, all questions of an update together (in groups
  of `--group`, so that they fit into memory); its image processor and tokenizer are not timed.

Before anything is timed, all gradients of a batch are compared. The arms take turns, update by update, and the ratio is the median
over the rounds of the quotient of their times. With one thread on the CPU time is CPU time of the main thread, so that a busy machine
counts less; else it is wall time. MFU is that of ours, over the peak of a matrix product on this device. The last line is JSON; it
needs only torch and transformers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

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
    """What is measured."""

    rounds: Annotated[int, option("N")] = 9
    """Updates that each arm is timed on."""
    threads: Annotated[int, option("N")] = 1
    """Torch threads of both arms."""
    views: Annotated[int, option("N")] = 2
    """Cameras."""
    frames: Annotated[int, option("N")] = 40
    """Frames of an episode."""
    group: Annotated[int, option("N")] = 32
    """Questions in one stock pass."""
    device: Annotated[str, option("NAME")] = "cpu"
    """Where both arms run."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("rounds", self.rounds >= 1, "give at least 1"),
            ("threads", self.threads >= 1, "give at least 1"),
            ("views", self.views >= 1, "give at least 1"),
            ("frames", self.frames >= 8, "give at least 8"),
            ("group", self.group >= 1, "give at least 1"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Compare gradients, time both arms, print the figures."""
    print(json.dumps(measure(parse(Arguments, argv, "dopamine bench training", __doc__))))


def measure(arguments: Arguments) -> dict[str, float]:
    """All figures."""
    import torch

    from dopamine_rl.grm.batches import in_memory
    from dopamine_rl.grm.config import GRMConfig, TrainConfig
    from dopamine_rl.grm.model import build_grm
    from dopamine_rl.grm.train import Trainer

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
        asked = list(islice(coming, config.batches))
        prepared = [group for batch in asked for group in naive.prepare(batch)]
        times = [_timed(clock, step, arguments.device) for step in (lambda: trainer.step(0.5), lambda: naive.step(prepared))]  # noqa: B023  # fmt: skip
        if number:  # the first one warms up
            rounds.append((sum(len(batch.hops) for batch in asked), *times))
    progress = trainer.progress()
    ours = median(pairs / own for pairs, own, _ in rounds)
    return {
        "pairs_per_s": round(ours, 1),
        "naive_pairs_per_s": round(median(pairs / other for pairs, _, other in rounds), 1),
        "ratio": round(median(other / own for _, own, other in rounds), 2),
        "gradient_difference": float(f"{difference:.1e}"),
        "mfu": round(progress.mfu, 4),
        "flops_per_pair": round(progress.flops_per_pair),
        "threads": arguments.threads, "views": arguments.views, "rounds": arguments.rounds,
        "pairs_per_update": median(pairs for pairs, _, _ in rounds), "parameters": grm.parameters,
    }  # fmt: skip


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
    """The stock model, trained as any transformers model is.

    Args:
        grm: the model.
        config: of the training.
        group: questions in one pass.
    """

    def __init__(self, grm: GRM, config: TrainConfig, group: int) -> None:
        from dopamine_rl.grm.train import make_optimizer

        self.grm, self._config, self._group = grm, config, group
        self._optimizer = make_optimizer(grm.model, config)

    def prepare(self, batch: Batch) -> list[dict[str, Any]]:
        """The inputs of the stock forward pass for a batch, group by group, and the answers."""
        import torch

        from dopamine_rl.grm.layout import prompt_layout

        grm, device, groups = self.grm, self.grm.model.device, []
        shown = grm.image_processor(images=list(batch.images), return_tensors="pt")
        pixels = shown["pixel_values"].unflatten(0, (len(batch.images), -1)).to(device)
        grid = shown["image_grid_thw"][:1].to(device)
        _, rows, columns = (grid[0] // grm.model.config.vision_config.spatial_merge_size).tolist()
        views = len(batch.prompts[0].before)
        ids = prompt_layout(grm, INSTRUCTION, views, rows, columns).input_ids
        for first in range(0, len(batch.prompts), self._group):
            prompts = batch.prompts[first : first + self._group]
            images = [image for prompt in prompts for image in prompt.images]
            several = ids.repeat(len(prompts), 1)
            groups.append(
                {
                    "input_ids": several,
                    "mm_token_type_ids": (several == grm.model.config.image_token_id).int(),
                    "pixel_values": pixels[images].flatten(0, 1),
                    "image_grid_thw": grid.repeat(len(images), 1),
                    "hops": torch.from_numpy(batch.hops[first : first + self._group]).to(device),
                }
            )
        return groups

    def backward(self, groups: list[dict[str, Any]]) -> None:
        """Gradients of the mean loss of a batch."""
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
    """Largest difference of a gradient between the arms, as a share of that weight's largest gradient."""
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
