"""RLPD as an RLlib algorithm: off-policy learning from a fixed share of demonstrations and online data.

The method is in losses.py, networks.py and updater.py; rlpd_learner.py and this file integrate it with RLlib.

Source: arXiv:2302.02948. Differs: the update-to-data ratio and the actor's update interval are settings, the critics
can be warmed up before the actor is trained, and the policy can be a bounded residual on a cloned one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.sac import SAC, SACConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from dopamine_rl.encoders.cnn import saved_cnn
from dopamine_rl.encoders.eyes import Eyes
from dopamine_rl.errors import BadInput
from dopamine_rl.policy import PolicyState, hidden_widths, load_eyes, load_policy
from dopamine_rl.shaping import FULL, Shaping
from dopamine_rl.types import RewardMode
from learner.algorithms.acting import RunnerSample
from learner.algorithms.common import ActingAlgorithm, TrainingSetup, configure
from learner.algorithms.rlpd_learner import RLPDLearner, RLPDModule
from learner.algorithms.vision import VisionShape, cnn_weights
from learner.config import LearnerConfig
from learner.demonstrations import load_demonstrations, transition_columns
from learner.feed import ReplayFeed
from learner.observations import check_room
from learner.replay import ColumnarReplay

REPLAY = "replay"
CALL_BYTES = 2**28
"""Observations that a learner call holds at most, so that batches of pictures do not fill the memory."""


class RLPDConfig(SACConfig):
    """SAC's configuration, plus our LearnerConfig and RLPD's files."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or RLPD)
        self.learner = LearnerConfig()
        self.reward_mode: RewardMode = "sparse"
        self.shaping = FULL
        self.demonstrations: str | None = None
        self.initial_policy: str | None = None
        self.replay_buffer_config["no_local_replay_buffer"] = True

    def rlpd(
        self,
        learner: LearnerConfig,
        reward_mode: RewardMode,
        demonstrations: str | None = None,
        initial_policy: str | None = None,
        shaping: Shaping = FULL,
    ) -> RLPDConfig:
        """Set RLPD's options.

        Args:
            learner: settings of the learner.
            reward_mode: reward of replayed transitions.
            demonstrations: an .npz of `save_demonstrations`, or None.
            initial_policy: a file of `save_policy` to start from, or None.
            shaping: how the potential is paid.
        """
        self.learner, self.reward_mode, self.shaping = learner, reward_mode, shaping
        self.demonstrations, self.initial_policy = demonstrations, initial_policy
        return self

    def validate(self) -> None:
        """Raise BadInput for unsupported settings."""
        super().validate()
        if self.num_learners > 1:
            raise BadInput("num_learners", self.num_learners, "use at most one learner process")
        if self.learner.residual_scale and not self.initial_policy:
            raise BadInput("initial_policy", None, "give a cloned policy as the base of the residual")

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The RLModule with policy and critics."""
        base = hidden_widths(load_policy(Path(self.initial_policy))) if self.initial_policy else None
        model_config = {"learner": self.learner, "base_hidden": base, "sees": self.sees()}
        return RLModuleSpec(module_class=RLPDModule, model_config=model_config)

    def sees(self) -> VisionShape | None:
        """How packed observations become vectors: as the initial policy's file says; None for vectors alone."""
        eyes = load_eyes(Path(self.initial_policy)) if self.initial_policy else None
        return VisionShape.of(eyes, bool(self.learner.residual_scale)) if eyes else None

    def get_default_learner_class(self) -> type[TorchLearner]:
        """The learner that applies `Updater`."""
        return RLPDLearner


class RLPD(ActingAlgorithm, SAC):
    """Samples, stores the labelled fragments, and learns from replay buffer and demonstrations."""

    config: Any
    metrics: Any
    spaces: Any
    env_runner_group: Any
    learner_group: Any

    @classmethod
    def get_default_config(cls) -> Any:
        """An RLPDConfig."""
        return RLPDConfig()

    def setup(self, config: Any) -> None:
        """Set up RLlib's algorithm and the replay buffers."""
        super().setup(config)
        settings: RLPDConfig = self.config
        observations, actions = self.spaces[INPUT_ENV_SINGLE_SPACES]
        sees = settings.sees()
        packing = sees.packing if sees else None
        if packing is not None:
            check_room(settings.learner.replay_capacity, packing.width, settings.learner.replay_gb)
        online = ColumnarReplay(
            settings.learner.replay_capacity,
            observations.shape[0],
            actions.shape[0],
            settings.gamma,
            settings.reward_mode,
            settings.shaping,
            packing,
        )
        demo = None
        if settings.demonstrations:
            path = Path(settings.demonstrations)
            demo, practice = load_demonstrations(path, settings.gamma, settings.reward_mode, packing)
            if demo.layout != online.layout:
                raise BadInput("demonstrations", demo.layout, f"record them with the environment's {online.layout}")
            if practice is not None:
                online.copy(practice)
        self.feed = ReplayFeed(online, demo, settings.learner, settings.seed or 0)

    def training_step(self) -> None:
        """Store the fragments that arrived, request new ones, and run the updates due while they are sampled.

        Fragments are therefore sampled with slightly older weights, which is fine for an off-policy learner.
        """
        self.acting.request()
        due = self.feed.due(self._store(self.acting.take()))
        self.acting.request()
        if due:
            self._improve(due)

    def _improve(self, updates: int) -> None:
        settings, packing = self.config.learner, self.feed.online.layout.packing
        per_call = settings.updates_per_call
        if packing is not None:
            per_call = max(1, min(per_call, CALL_BYTES // (2 * settings.batch_size * packing.width)))
        for done in range(0, updates, per_call):
            self._learn(min(per_call, updates - done))
        self.acting.publish()

    def _store(self, samples: list[RunnerSample]) -> int:
        """Store fragments in the replay buffer; returns their number of environment steps."""
        self.metrics.aggregate([metrics for _, metrics in samples], key=ENV_RUNNER_RESULTS)
        episodes = [episode for fragments, _ in samples for episode in fragments]
        for episode in episodes:
            store_fragment(self.feed.online, episode)
            if episode.is_done:
                self.feed.finish(episode.id_)
        self.metrics.log_value((REPLAY, "online_transitions"), len(self.feed.online), reduce="max")
        self.metrics.log_value((REPLAY, "promoted_episodes"), len(self.feed.promoted), window=1)
        return sum(len(episode) for episode in episodes)

    def _learn(self, updates: int) -> None:
        columns = self.feed.draw(updates)
        batch = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=columns["rewards"].size)
        self.metrics.aggregate(self.learner_group.update(batch=batch), key=LEARNER_RESULTS)
        self.acting.updates += updates

    def policy_state(self) -> PolicyState:
        """The policy's weights, for `save_policy` and DeterministicPolicy."""
        weights = self.learner_group.get_weights()[DEFAULT_MODULE_ID]
        saved = {"policy.": "", **({"target.": "critic."} if self.config.learner.choose else {})}
        state = {
            new + name.removeprefix(old): values
            for old, new in saved.items()
            for name, values in weights.items()
            if name.startswith(old)
        }
        if self.config.learner.residual_scale:
            state["residual_scale"] = np.array(self.config.learner.residual_scale, np.float32)
        return state

    def memory(self) -> str:
        """What the replay buffer takes when it is full."""
        online = self.feed.online
        return f"replay: {online.layout.bytes} bytes a transition, {online.nbytes / 1e9:.2f} GB when it is full"

    def sees_with(self, eyes: Eyes | None) -> Eyes | None:
        """The eyes with the encoder as it was learned."""
        if eyes is None or not eyes.learned:
            return eyes
        weights = cnn_weights(self.learner_group.get_weights()[DEFAULT_MODULE_ID], "vision")
        return replace(eyes, saved=saved_cnn(eyes.saved.settings["side"], weights))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, plus the replay buffers and their random generator."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(REPLAY, components, not_components):
            state[REPLAY] = self.feed.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state from `get_state`."""
        super().set_state(state)
        if REPLAY in state:
            self.feed.set_state(state[REPLAY])


def store_fragment(replay: ColumnarReplay, episode: SingleAgentEpisode) -> None:
    """Store a fragment with its labels from custom_data[f"labels/{t_started}"], if any."""
    if not len(episode):
        return
    labels = episode.custom_data.get(f"labels/{episode.t_started}")
    columns = transition_columns(
        np.asarray(episode.get_observations()),
        np.asarray(episode.get_actions(), np.float32),
        np.asarray(episode.get_rewards(), np.float32),
        episode.is_terminated,
        labels,
    )
    replay.add(columns, episode.id_, episode.t_started, labels.model_version if labels else "")


def make_rlpd_config(
    setup: TrainingSetup,
    learner: LearnerConfig,
    reward_mode: RewardMode,
    demonstrations: str | None = None,
    initial_policy: str | None = None,
    shaping: Shaping = FULL,
) -> RLPDConfig:
    """Make RLPD's configuration; `.build_algo()` starts it.

    Args:
        setup: environment, callbacks, discount, seed.
        learner: settings of the learner.
        reward_mode: reward of replayed transitions.
        demonstrations: an .npz of `save_demonstrations`; None learns from online data only.
        initial_policy: a file of `save_policy` to start from, or None.
        shaping: how the potential is paid.
    """
    config = RLPDConfig().rlpd(learner, reward_mode, demonstrations, initial_policy, shaping)
    configure(config, setup, learner)
    return config
