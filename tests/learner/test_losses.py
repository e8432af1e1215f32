from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from learner.algorithms.losses import (
    actor_loss,
    alpha_loss,
    cloning_loss,
    critic_loss,
    critic_target,
    imitation_loss,
    squashed_gaussian,
)
from learner.algorithms.networks import CriticEnsemble, Policy, better_action, critic_values
from learner.algorithms.updater import LOSSES, Updater, build_agent
from learner.config import LearnerConfig
from learner.feed import HELD_COLUMNS

torch.manual_seed(0)
D, A, B, E = 5, 3, 8, 4


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same numbers in every run."""
    torch.manual_seed(0)


def test_squashed_density_is_the_transformed_distributions() -> None:
    mean, log_std, noise = torch.randn(3, B, A)
    action, log_density = squashed_gaussian(mean, log_std, noise)
    reference = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    raw = mean + log_std.exp() * noise
    torch.testing.assert_close(action, raw.tanh())
    # 1 − tanh² = 1 / cosh², which does not cancel far out.
    slow = Normal(mean, log_std.exp()).log_prob(raw) + 2 * torch.log(raw.double().cosh()).float()
    torch.testing.assert_close(log_density, slow.sum(-1), atol=1e-4, rtol=1e-4)
    assert reference.log_prob(action).shape == (B, A)


def test_squashed_density_is_finite_far_out() -> None:
    mean = torch.tensor([[30.0, -30.0]])
    action, log_density = squashed_gaussian(mean, torch.zeros(1, 2), torch.zeros(1, 2))
    assert torch.isfinite(log_density).all()
    np.testing.assert_array_equal(action.numpy(), [[1.0, -1.0]])


@pytest.mark.parametrize("entropy", [False, True])
def test_target_is_the_loop(entropy: bool) -> None:
    reward, log_prob = torch.randn(2, B)
    terminated, next_q, alpha = (torch.rand(B) < 0.5).float(), torch.randn(2, B), torch.tensor(0.3)
    target = critic_target(reward, terminated, next_q, log_prob if entropy else None, 0.9, alpha)
    for b in range(B):
        value = min(float(next_q[0, b]), float(next_q[1, b])) - (0.3 * float(log_prob[b]) if entropy else 0.0)
        expected = float(reward[b]) + (0.0 if terminated[b] else 0.9 * value)
        assert float(target[b]) == pytest.approx(expected, abs=1e-5)


def test_critic_actor_and_temperature_losses_are_the_loops() -> None:
    q, target, log_prob, alpha = torch.randn(E, B), torch.randn(B), torch.randn(B), torch.tensor(0.2)
    slow = sum(sum((float(q[e, b]) - float(target[b])) ** 2 for b in range(B)) / B for e in range(E))
    assert float(critic_loss(q, target)) == pytest.approx(slow, rel=1e-5)
    slow = sum(0.2 * float(log_prob[b]) - sum(float(q[e, b]) for e in range(E)) / E for b in range(B)) / B
    assert float(actor_loss(log_prob, q, alpha)) == pytest.approx(slow, rel=1e-4, abs=1e-6)
    log_alpha = torch.tensor(-0.7, requires_grad=True)
    slow = -sum(math.exp(-0.7) * (float(log_prob[b]) - 3.0) for b in range(B)) / B
    loss = alpha_loss(log_alpha, log_prob, -3.0)
    assert float(loss.detach()) == pytest.approx(slow, rel=1e-5)


def test_temperature_rises_where_entropy_is_too_low() -> None:
    log_alpha = torch.tensor(0.0, requires_grad=True)
    alpha_loss(log_alpha, torch.full((B,), 5.0), -3.0).backward()
    assert log_alpha.grad is not None
    assert log_alpha.grad < 0


def test_cloning_loss_is_the_squared_error_of_the_squashed_mean() -> None:
    mean, action = torch.randn(B, A), torch.rand(B, A)
    slow = sum((math.tanh(float(mean[b, a])) - float(action[b, a])) ** 2 for b in range(B) for a in range(A)) / (A * B)
    assert float(cloning_loss(mean, action)) == pytest.approx(slow, rel=1e-5)


def plain_critic(ensemble: CriticEnsemble, member: int, observation: torch.Tensor, action: torch.Tensor) -> float:
    """One critic on one transition, layer by layer."""
    x = torch.cat((observation, action))
    for layer in range(len(ensemble.gains)):
        x = x @ ensemble.weights[layer][member] + ensemble.biases[layer][member, 0]
        x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
        x = torch.relu(x * ensemble.gains[layer][member, 0] + ensemble.shifts[layer][member, 0])
    return float((x @ ensemble.weights[-1][member] + ensemble.biases[-1][member, 0]).detach())


def test_ensemble_is_its_members_one_by_one() -> None:
    ensemble = CriticEnsemble(D, A, (16, 16), E)
    for group in (ensemble.gains, ensemble.shifts):
        for parameter in group:
            torch.nn.init.normal_(parameter)
    observations, actions = torch.randn(B, D), torch.randn(B, A)
    values = ensemble(observations, actions)
    subset = critic_values(ensemble.tensors(torch.tensor([2, 0])), observations, actions)
    torch.testing.assert_close(subset, values[[2, 0]])
    for e in range(E):
        for b in range(B):
            assert float(values[e, b].detach()) == pytest.approx(
                plain_critic(ensemble, e, observations[b], actions[b]), abs=1e-4
            )


def agent_and_batch(**overrides: object) -> tuple[Updater, dict[str, torch.Tensor]]:
    config = LearnerConfig(hidden=(16, 16), critics=E, **overrides)  # type: ignore[arg-type]
    torch.manual_seed(1)
    updater = Updater(build_agent(D, A, config), config, 0.9, 0)
    batch = {"obs": torch.randn(B, D), "next_obs": torch.randn(B, D), "actions": torch.rand(B, A) * 2 - 1}
    batch |= {name: torch.rand(B) for name in HELD_COLUMNS}
    return updater, {**batch, "rewards": torch.randn(B), "terminated": (torch.rand(B) < 0.3).float()}


def seen(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What critics that see the held potential are given, before and after each step."""
    before = torch.stack([batch["potential"], batch["phase"]], 1)
    after = torch.stack([batch["next_potential"], batch["next_phase"]], 1)
    return torch.cat([batch["obs"], before], 1), torch.cat([batch["next_obs"], after], 1)


def test_update_reports_the_loss_of_its_own_target_and_moves_the_targets() -> None:
    updater, batch = agent_and_batch(actor_every=1, target_critics=E, tau=0.1)
    agent = updater.networks
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noise = torch.randn((B, A), generator=generator)
        actions, _ = agent.policy.sample(batch["next_obs"], noise)
        before, after = seen(batch)
        next_q = agent.target(after, actions)
        target = critic_target(batch["rewards"], batch["terminated"], next_q, None, 0.9, torch.tensor(0.1))
        expected = critic_loss(agent.critic(before, batch["actions"]), target)
    old = [p.clone() for p in agent.target.parameters()]
    losses = dict(zip(LOSSES, updater.update(batch).tolist(), strict=True))
    assert losses["critic_loss"] == pytest.approx(float(expected), rel=1e-5)
    for before, now, critic in zip(old, agent.target.parameters(), agent.critic.parameters(), strict=True):
        torch.testing.assert_close(now, 0.9 * before + 0.1 * critic)


def test_actor_gradient_is_the_whole_graphs() -> None:
    """Pruning the critics' gradients must not change the actor's."""
    updater, batch = agent_and_batch(actor_every=1)
    agent = updater.networks
    before, _ = seen(batch)
    actions, log_prob = agent.policy.sample(batch["obs"], torch.randn(B, A))
    whole = actor_loss(log_prob, agent.critic(before, actions), torch.tensor(0.1))
    pruned = actor_loss(log_prob, critic_values(agent.critic.tensors(), before, actions), torch.tensor(0.1))
    parameters = list(agent.policy.actor.parameters())
    for a, b in zip(
        torch.autograd.grad(whole, parameters, retain_graph=True), torch.autograd.grad(pruned, parameters), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_critics_without_the_held_potential_do_not_depend_on_it() -> None:
    for sees in (False, True):
        updater, batch = agent_and_batch(critic_sees_potential=sees)
        other, _ = agent_and_batch(critic_sees_potential=sees)
        losses = updater.update(batch)[0], other.update({**batch, "next_phase": 1.0 - batch["next_phase"]})[0]
        assert bool(losses[0] != losses[1]) == sees


def test_only_the_critics_move_during_the_warm_up() -> None:
    updater, batch = agent_and_batch(actor_every=1, critic_warmup_updates=3)
    actor = [p.clone() for p in updater.networks.policy.parameters()]
    critic = [p.clone() for p in updater.networks.critic.parameters()]
    for _ in range(3):
        assert math.isnan(updater.update(batch)[LOSSES.index("actor_loss")])
    assert all(torch.equal(a, b) for a, b in zip(actor, updater.networks.policy.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(critic, updater.networks.critic.parameters(), strict=True))
    updater.update(batch)
    assert not torch.equal(actor[0], next(updater.networks.policy.parameters()))


def test_residual_begins_at_the_base_and_stays_in_its_bound() -> None:
    policy, base = Policy(D, A, (16,), 0.1, residual_scale=0.3), Policy(D, A, (16,), 0.1)
    policy.start_from({name: value.numpy() for name, value in base.state_dict().items()})
    observations = torch.randn(B, D)
    torch.testing.assert_close(policy.act(observations), base.act(observations))
    drawn, _ = policy.sample(observations, 50 * torch.randn(B, A))
    assert ((drawn - base.act(observations)).abs() <= 0.3 + 1e-6).all()
    assert not any(p.requires_grad for p in policy.base.parameters())  # type: ignore[union-attr]


def test_targets_discount_by_the_steps_that_each_return_spans() -> None:
    updater, batch = agent_and_batch(n_step=3, target_critics=E)
    other, _ = agent_and_batch(target_critics=E)
    same = updater.update({**batch, "discounts": torch.full((B,), 0.9)})
    torch.testing.assert_close(same, other.update(batch), equal_nan=True)
    spans = torch.randint(1, 4, (B,))
    target = critic_target(batch["rewards"], batch["terminated"], torch.ones(2, B), None, 0.9**spans, torch.tensor(0.1))
    torch.testing.assert_close(target, batch["rewards"] + (1 - batch["terminated"]) * 0.9**spans)


def test_imitation_is_the_loop_and_bounded() -> None:
    action, stored, gain = torch.rand(B, A), torch.rand(B, A), torch.linspace(-1, 1, B)
    slow = 0.0
    for b in range(B):
        error = sum((float(action[b, a]) - float(stored[b, a])) ** 2 for a in range(A)) / A
        slow += min(math.exp(float(gain[b]) / 0.1), math.exp(3.0)) * error / B
    assert float(imitation_loss(action, stored, gain, 0.1)) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_imitation_moves_the_policy_towards_actions_that_gained(scale: float) -> None:
    updater, batch = agent_and_batch(actor_every=1, imitation=100.0, residual_scale=scale, actor_lr=1e-2)
    policy = updater.networks.policy
    batch["actions"] = policy.act(batch["obs"]).detach() + 0.1
    batch["gains"] = torch.tensor([0.5] * (B // 2) + [-0.5] * (B // 2))
    lost = slice(B // 2, None)
    batch["actions"][lost] -= 0.2  # the opposite direction
    for _ in range(60):
        updater.update(batch)
    moved = policy.act(batch["obs"]).detach()
    assert (moved - batch["actions"])[: B // 2].abs().mean() < 0.05


def test_of_two_actions_the_better_one_is_taken() -> None:
    ensemble = CriticEnsemble(D, A, (16,), E)
    observations, actions, others = torch.randn(B, D), torch.rand(B, A), torch.rand(B, A)
    taken = better_action(ensemble, observations, actions, others)
    for b in range(B):
        values = [
            sum(plain_critic(ensemble, e, observations[b], each[b]) for e in range(E)) for each in (actions, others)
        ]
        torch.testing.assert_close(taken[b], actions[b] if values[0] > values[1] else others[b])
    torch.testing.assert_close(better_action(ensemble, observations, actions, actions), actions)


def test_targets_take_the_better_of_residual_and_clone() -> None:
    updater, batch = agent_and_batch(
        choose=True, critic_sees_potential=False, residual_scale=1.0, initial_std=1.0, actor_every=2, target_critics=E
    )
    agent = updater.networks
    with torch.no_grad():
        noise = torch.randn((B, A), generator=torch.Generator().manual_seed(0))
        residual, base = agent.policy.sample(batch["next_obs"], noise)[0], agent.policy.base_action(batch["next_obs"])
        values = [agent.target(batch["next_obs"], each).amin(0) for each in (residual, base)]
        assert not torch.allclose(*values)
        target = batch["rewards"] + 0.9 * (1 - batch["terminated"]) * torch.maximum(*values)
        expected = critic_loss(agent.critic(batch["obs"], batch["actions"]), target)
    assert float(updater.update(batch)[0]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_critics_that_begin_with_the_potential_learn_what_shaped_ones_learn(n: int) -> None:
    """Q = net + Φ on the task's reward has the same error as Q = net on the shaped one, so it is no option."""
    task, potential, next_potential, net = torch.randn(B), torch.rand(B), torch.rand(B), torch.randn(B)
    terminated, next_net, alpha = (torch.rand(B) < 0.3).float(), torch.randn(2, B), torch.tensor(0.1)
    next_potential = next_potential * (1 - terminated)  # as labels are
    discount = 0.9**n
    shaped = task + discount * next_potential - potential
    offset = critic_target(task, terminated, next_net + next_potential, None, discount, alpha) - (net + potential)
    torch.testing.assert_close(offset, critic_target(shaped, terminated, next_net, None, discount, alpha) - net)
