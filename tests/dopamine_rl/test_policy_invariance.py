"""Which rewards keep the optimal policy: tabular MDPs, solved exactly, paid by the shipped functions.

Frames are scored every `stride` steps, so what the reward depends on is (state, last scored state, phase): the MDP is
solved on these. Holding the potential keeps the optimal policy; the three tempting variants each change it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from dopamine_rl.shaping import held_potential, next_potentials, shaped_reward

Hidden = tuple[int, int, int]
Pay = Callable[["Mdp", Hidden, float, int], float]


@dataclass
class Mdp:
    """P[s, a, s'], task reward R[s, a], potential per state, discount; the last state ends the task."""

    P: np.ndarray
    R: np.ndarray
    phi: np.ndarray
    gamma: float
    stride: int

    def terminal(self, s: int) -> bool:
        return s == len(self.phi) - 1


def pay_sparse(mdp: Mdp, hidden: Hidden, task: float, after: int) -> float:
    return task


def pay_held(mdp: Mdp, hidden: Hidden, task: float, after: int, mode: str = "grm") -> float:
    _, scored, age = hidden
    is_scored = age + 1 == mdp.stride
    times, progress = ([1], [mdp.phi[after]]) if is_scored else ([], [])
    potential = held_potential(times, progress, 1, mdp.phi[scored])
    return shaped_reward([task], potential[:-1], next_potentials(potential, mdp.terminal(after)), mdp.gamma, mode)[0]


def pay_naive(mdp: Mdp, hidden: Hidden, task: float, after: int) -> float:
    return pay_held(mdp, hidden, task, after, "naive")


def pay_once_per_window(mdp: Mdp, hidden: Hidden, task: float, after: int) -> float:
    _, scored, age = hidden
    if age + 1 < mdp.stride and not mdp.terminal(after):
        return task
    potential = 0.0 if mdp.terminal(after) else mdp.phi[after]
    return shaped_reward([task], [mdp.phi[scored]], [potential], mdp.gamma, "grm")[0]


def solve(mdp: Mdp, pay: Pay, start: int) -> dict[Hidden, np.ndarray]:
    """Return the optimal Q of every reachable hidden state, by policy iteration on the expanded MDP."""
    states: list[Hidden] = [(start, start, 0)]
    index = {states[0]: 0}
    moves: list[list[list[tuple[float, float, int]]]] = []
    for hidden in states:
        s, scored, age = hidden
        moves.append([])
        for a in range(mdp.P.shape[1]):
            moves[-1].append([])
            for after in np.flatnonzero(mdp.P[s, a]):
                reward = pay(mdp, hidden, mdp.R[s, a], int(after))
                following = -1
                if not mdp.terminal(after):
                    is_scored = age + 1 == mdp.stride
                    new = (int(after), int(after) if is_scored else scored, 0 if is_scored else age + 1)
                    following = index.setdefault(new, len(states))
                    if following == len(states):
                        states.append(new)
                moves[-1][-1].append((mdp.P[s, a, after], reward, following))
    n, actions = len(states), mdp.P.shape[1]
    chance, reward = np.zeros((n, actions, n)), np.zeros((n, actions))
    for i in range(n):
        for a in range(actions):
            for probability, paid, following in moves[i][a]:
                reward[i, a] += probability * paid
                if following >= 0:
                    chance[i, a, following] += probability
    policy = np.zeros(n, int)
    while True:
        rows = np.arange(n)
        value = np.linalg.solve(np.eye(n) - mdp.gamma * chance[rows, policy], reward[rows, policy])
        q = reward + mdp.gamma * chance @ value
        better = np.where(q.max(1) > q[rows, policy] + 1e-9, q.argmax(1), policy)
        if np.array_equal(better, policy):
            return dict(zip(states, q, strict=True))
        policy = better


def random_mdp(seed: int, stride: int) -> Mdp:
    rng = np.random.default_rng(seed)
    n, actions = 5, 3
    P = rng.dirichlet(np.ones(n) * 0.5, (n, actions))
    return Mdp(P, rng.normal(size=(n, actions)), rng.random(n), 0.9, stride)


def trap(stride: int) -> Mdp:
    """Hover at progress 0.95, or leave through 30 states of progress 0.2 to the end, which pays 0.5."""
    n = 32
    P, R, phi = np.zeros((n, 2, n)), np.zeros((n, 2)), np.full(n, 0.2)
    P[0, 0, 0] = P[0, 1, 1] = 1.0
    phi[0] = 0.95
    for s in range(1, n - 1):
        P[s, :, s + 1] = 1.0
    P[n - 1, :, n - 1] = 1.0
    R[n - 2] = 0.5
    return Mdp(P, R, phi, 0.99, stride)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_holding_shifts_every_q_by_the_held_potential(seed: int, stride: int) -> None:
    """Q_shaped = Q − Φ(last scored frame): the same for every action, so the same optimal actions."""
    mdp = random_mdp(seed, stride)
    sparse, held = solve(mdp, pay_sparse, 0), solve(mdp, pay_held, 0)
    assert sparse.keys() == held.keys()
    assert any(s != scored for s, scored, _ in held) == (stride > 1)
    for hidden, q in sparse.items():
        assert held[hidden] + mdp.phi[hidden[1]] == pytest.approx(q, abs=1e-5)
        assert q[held[hidden].argmax()] == pytest.approx(q.max(), abs=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_holding_leaves_the_trap_and_naive_delta_hovers(stride: int) -> None:
    mdp, start = trap(stride), (0, 0, 0)
    assert solve(mdp, pay_sparse, 0)[start].argmax() == 1
    assert solve(mdp, pay_held, 0)[start].argmax() == 1
    assert solve(mdp, pay_naive, 0)[start].argmax() == 0


def test_paying_once_per_window_is_right_only_for_a_stride_of_one() -> None:
    assert solve(trap(1), pay_once_per_window, 0)[(0, 0, 0)].argmax() == 1
    assert solve(trap(5), pay_once_per_window, 0)[(0, 0, 0)].argmax() == 0


def test_interpolating_between_scored_frames_changes_the_optimal_policy() -> None:
    """Scored at steps 0 and 2. At step 1, one action pays 0.3 and leads to progress 1, the other pays 0 and to 0.

    Both ends then rest forever: under any of the rewards resting at Φ is worth Σ γ^i (γ − 1) Φ = −Φ. Interpolated, the
    potential at step 1 already contains where the action will lead, and charges the better one for it.
    """
    gamma, task, ends = 0.99, np.array([0.3, 0.0]), np.array([1.0, 0.0])
    rest = np.array([shaped_reward([0], [phi], [phi], gamma, "grm")[0] for phi in ends]) / (1 - gamma)
    assert rest == pytest.approx(-ends, abs=1e-5)
    held, interpolated = np.zeros(2), np.zeros(2)
    for a in range(2):
        potential = held_potential([2], [ends[a]], 2, 0.0)
        straight = np.interp([0, 1, 2], [0, 2], [0.0, ends[a]])
        held[a] = shaped_reward([task[a]], potential[1:2], potential[2:], gamma, "grm")[0] + gamma * rest[a]
        interpolated[a] = shaped_reward([task[a]], straight[1:2], straight[2:], gamma, "grm")[0] + gamma * rest[a]
        assert held[a] == pytest.approx(task[a], abs=1e-5)
    assert held.argmax() == task.argmax() == 0
    assert interpolated.argmax() == 1
