"""ManiSkill's PegInsertionSide-v1: its state as numpy, and grasped starts.

Importing this file imports torch and SAPIEN; `actors.maniskill` does so when an environment is built, not before.
"""

from __future__ import annotations

import numpy as np
import sapien
import torch
from mani_skill.envs.tasks.tabletop.peg_insertion_side import PegInsertionSideEnv
from mani_skill.utils.structs import Pose
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actors.geometry import Matrix, inverse, pose, to_matrix
from actors.peg_state import GRASP_OFFSET_M, GRASP_ROTATION, PegState
from actors.scene import SHUT_M, TabletopScene

SETTLING_STEPS = 20
"""Simulation steps (10 ms each) in which a peg put between the fingers comes to rest in the grasp."""


def to_pose(matrix: Matrix) -> sapien.Pose:
    """A pose as SAPIEN's."""
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat()
    return sapien.Pose(matrix[:3, 3].astype(np.float32), np.array([w, x, y, z], np.float32))


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

    def build(self, geometry_seed: int) -> None:
        """Build the scene of one geometry, to be kept over many episodes."""
        self.reset(seed=geometry_seed, options={"reconfigure": True})
        self.scene.step()  # normalises the quaternions of fixed bodies, which would else differ in the first episode

    def place_grasped(self, head: Matrix) -> None:
        """Put the peg's head at `head` (a pose in the hole's frame), held by the gripper, everything at rest.

        The outcome depends on `head` and the geometry alone, bit for bit. Two things see to it: the peg is taken far
        away for a step, so that the engine drops what it remembers of the last contacts; then it meets one finger
        before the other, because the engine's solver works through contacts in the order in which they were found.
        """
        hole = to_matrix(self.box_hole_pose.raw_pose)
        half_length, radius = (float(size) for size in self.peg_half_sizes[0, :2])
        peg = hole @ head @ pose([-half_length, 0.0, 0.0])
        grasp = pose([-GRASP_OFFSET_M, 0.0, 0.0], GRASP_ROTATION)
        joints = self._joints_for(peg @ grasp)
        arm, gripper = (self.agent.controller.controllers[name] for name in ("arm", "gripper"))
        arm.set_drive_targets(torch.as_tensor(joints[None], dtype=torch.float32))
        gripper.set_drive_targets(torch.full((1, 2), 0.04))
        beside_one_finger = peg @ grasp @ pose([0.0, 0.1, 0.0]) @ inverse(grasp)
        for waiting in (pose([0.0, -0.6, 0.5]), beside_one_finger):
            self._set(joints, 0.04, waiting)
            self.scene.step()
        self._set(joints, radius, peg)
        gripper.set_drive_targets(torch.full((1, 2), SHUT_M))
        for _ in range(SETTLING_STEPS):
            self.scene.step()
        self.agent.controller.reset()

    def _set(self, joints: NDArray[np.float64], finger_m: float, peg: Matrix) -> None:
        qpos = torch.as_tensor([[*joints, finger_m, finger_m]], dtype=torch.float32)
        self.agent.robot.set_qpos(qpos)
        self.peg.set_pose(Pose.create(to_pose(peg)))
        self._clear_sim_state()

    def _joints_for(self, tool: Matrix) -> NDArray[np.float64]:
        """The seven arm joints that bring the tool to a pose, near the robot's rest posture."""
        rest = torch.tensor([[0.0, np.pi / 8, 0.0, -np.pi * 5 / 8, 0.0, np.pi * 3 / 4, -np.pi / 4, 0.04, 0.04]])
        base = to_matrix(self.agent.robot.pose.raw_pose)
        target = Pose.create(to_pose(inverse(base) @ tool))
        joints = self.agent.controller.controllers["arm"].kinematics.compute_ik(target, rest.float())
        limits = self.agent.robot.get_qlimits()[0, :7]
        if joints is None or bool(((joints[0] < limits[:, 0]) | (joints[0] > limits[:, 1])).any()):
            raise RuntimeError(f"the arm cannot reach {tool[:3, 3]}; choose another geometry seed or smaller offsets")
        return joints[0].numpy().astype(np.float64)
