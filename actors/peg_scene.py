"""ManiSkill's PegInsertionSide-v1: its state as numpy, and grasped starts.

Importing this file imports torch and SAPIEN; `actors.maniskill` does so when an environment is built, not before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mani_skill.envs.tasks.tabletop.peg_insertion_side import PegInsertionSideEnv

from actors.geometry import Matrix, pose, to_matrix
from actors.peg_state import GRASP_OFFSET_M, GRASP_ROTATION, PegState
from actors.scene import TabletopScene

WRIST_RAD = -np.pi / 4
"""The arm's last joint when it holds the peg before the hole, about."""


class PegScene(TabletopScene, PegInsertionSideEnv):
    """The peg insertion, whose peg can be put into the gripper before the hole."""

    def state(self) -> PegState:
        """The true state now."""
        tool = self.agent.tcp
        twist = torch.cat([tool.linear_velocity[0], tool.angular_velocity[0]])
        return PegState(
            tool=to_matrix(tool.pose.raw_pose),
            peg=to_matrix(self.peg.pose.raw_pose),
            hole=to_matrix(self.box_hole_pose.raw_pose),
            twist=twist.numpy().astype(np.float64),
            qpos=self.agent.robot.get_qpos()[0].numpy().astype(np.float64),
            half_length=float(self.peg_half_sizes[0, 0]),
            radius=float(self.peg_half_sizes[0, 1]),
        )

    def grasped(self) -> bool:
        """Both fingers press on the peg."""
        return bool(self.agent.is_grasping(self.peg, max_angle=20)[0])

    def dense_reward(self) -> float:
        """ManiSkill's dense reward of the state now, by its own maximum: in [0, 1], 1 in success."""
        nothing: Any = None  # neither an observation nor an action counts
        return float(self.compute_normalized_dense_reward(nothing, nothing, self.evaluate())[0])

    def build(self, geometry_seed: int) -> None:
        """Build the scene of one geometry, to be kept over many episodes."""
        self.reset(seed=geometry_seed, options={"reconfigure": True})
        self.scene.step()  # normalises the quaternions of fixed bodies, which would else differ in the first episode

    def place_grasped(self, head: Matrix) -> None:
        """Put the peg's head at `head` (a pose in the hole's frame), held by the gripper, everything at rest.

        The outcome depends on `head` and the geometry alone, bit for bit (TabletopScene.hold).
        """
        hole = to_matrix(self.box_hole_pose.raw_pose)
        half_length, radius = (float(size) for size in self.peg_half_sizes[0, :2])
        peg = hole @ head @ pose([-half_length, 0.0, 0.0])
        self.hold(self.peg, peg, pose([-GRASP_OFFSET_M, 0.0, 0.0], GRASP_ROTATION), radius, WRIST_RAD)
