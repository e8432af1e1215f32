"""ManiSkill's tasks as plain gymnasium environments that render only the scored frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actors.geometry import pose, position_and_quaternion
from actors.peg_state import OBSERVATION_SIZE, PegState, observation, true_progress
from actors.tasks.task import ObjectState, ObjectTask, PrecisePlace, Task
from dopamine_rl.callables import read_keywords
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.errors import BadInput, seed_check
from dopamine_rl.spelling import one_of
from dopamine_rl.types import Views

if TYPE_CHECKING:
    from actors.scene import TabletopScene

# ManiSkill's pd_ee_delta_pose moves this much for an action of one, metres and rad.
FULL_SCALE_M = 0.1
FULL_SCALE_RAD = 0.1
PEG_INSERTION = "PegInsertionSide-v1"
ObservationKind = Literal["state", "proprioception", "pictures"]
OBSERVATIONS: tuple[ObservationKind, ...] = get_args(ObservationKind)
Observation = NDArray[np.float32] | dict[str, NDArray[Any]]
"""A vector, or proprioception and pictures by name."""
Look = Literal["plain", "light", "texture", "camera", "distractors"]
LOOKS: tuple[Look, ...] = get_args(Look)
VIEWS = ("front", "wrist", "close")
OBJECT_OBSERVATION_SIZE = 10
"""Length of an observation of all tasks but the peg insertion."""
PROPRIOCEPTION_SIZE = 14
"""Length of proprioception, of every task (TabletopScene.proprioception)."""


@dataclass(frozen=True)
class EnvConfig:
    """The simulated task: where episodes start, how long they last, what is seen and how large actions are."""

    task: str = PEG_INSERTION
    """ManiSkill's name of the task, one of actors.tasks.TASKS. A policy can be trained for the peg insertion alone."""
    start: Literal["standard", "insertion"] = "insertion"
    """Standard: peg on the table, geometry drawn anew at every reset (the published protocol). Insertion: the peg is
    held before the hole, one geometry. Other tasks have the standard start alone."""
    geometry_seed: int = 0
    """Seed of peg, box and hole of the insertion start."""
    lateral_m: float = 0.015
    """Insertion start: the peg's head is off by up to this much in both directions across the hole's axis."""
    angle_rad: float = 0.087
    """Insertion start: the peg is turned by up to this much about each axis."""
    standoff_m: float = 0.03
    """Insertion start: gap between the peg's head and the box's plate."""
    horizon: int = 80
    """Environment steps after which an episode is truncated."""
    stride: int = 4
    """A frame is scored every so many environment steps."""
    image_size: int = 112
    """Height and width of every view in pixels."""
    views: tuple[str, ...] = VIEWS
    """Cameras of the scored frames, in the order of the V axis; with none, no frame is scored."""
    observation: ObservationKind = "state"
    """What the policy sees. state: the simulator's own, poses of all objects included. proprioception: joint angles,
    finger and the tool's velocity. pictures: proprioception and the pictures of policy_views, at every step."""
    policy_views: tuple[str, ...] = ("front", "wrist")
    """Cameras that the policy sees with observation pictures. They are among the views."""
    look: Look = "plain"
    """What pictures show other than usual, drawn from the episode's seed: light (brightness, direction, colour),
    texture (table top, tints of the objects), camera (the fixed ones moved and turned a little), distractors (things
    that nothing can touch). Bodies, observations and true progress are the same in every look."""
    translation_m: float = 0.015
    """Commanded translation of the tool for an action of one, metres per environment step and axis."""
    rotation_rad: float = 0.05
    """Commanded rotation of the tool for an action of one, rad per environment step and axis."""
    oracle: bool = False
    """Also report the simulator-true progress, for comparisons; never for a learner that must do without."""
    make: str = ""
    """MODULE:CALLABLE that makes an environment of your own (dopamine_rl.interfaces.MakeEnvironment), instead of the
    simulated task. Of this section it uses kwargs, instruction, horizon, stride and views, the names of its pictures;
    the other settings are the simulated tasks'. `dopamine env check` tests it."""
    kwargs: str = "{}"
    """Keyword arguments of that callable, as JSON: '{"camera": "front"}'."""
    instruction: str = ""
    """Its task in words, for the reward model: insert the peg into the hole."""

    def __post_init__(self) -> None:
        unknown = "".join([view for view in self.views if view not in VIEWS][:1]) if not self.make else ""
        checks = (
            ("start", self.start in ("standard", "insertion"), "write standard or insertion"),
            seed_check("geometry_seed", self.geometry_seed),
            ("lateral_m", 0.0 <= self.lateral_m <= 0.05, "choose 0 to 0.05"),
            ("angle_rad", 0.0 <= self.angle_rad <= 0.3, "choose 0 to 0.3"),
            ("standoff_m", 0.03 <= self.standoff_m <= 0.1, "choose 0.03 to 0.1: a turned peg must not touch the plate"),
            ("horizon", self.horizon >= 1, "choose at least 1"),
            ("stride", 1 <= self.stride <= self.horizon, f"choose 1 to the horizon, {self.horizon}"),
            ("image_size", 16 <= self.image_size <= 1024, "choose 16 to 1024"),
            ("views", not unknown, one_of(unknown, VIEWS)),
            ("views", len(set(self.views)) == len(self.views), "name each view once"),
            ("look", self.look in LOOKS, one_of(self.look, LOOKS)),
            ("observation", self.observation in OBSERVATIONS, one_of(self.observation, OBSERVATIONS)),
            *self._view_checks(),
            ("translation_m", 0.0 < self.translation_m <= FULL_SCALE_M, f"choose up to {FULL_SCALE_M}"),
            ("rotation_rad", 0.0 < self.rotation_rad <= FULL_SCALE_RAD, f"choose up to {FULL_SCALE_RAD}"),
        )
        for name, good, fix in checks:
            if not good:
                raise BadInput(f"env.{name}", getattr(self, name), fix)
        read_keywords("env.kwargs", self.kwargs)

    def _view_checks(self) -> list[tuple[str, bool, str]]:
        """Checks of the policy's views; with observation pictures there must be some."""
        unknown = "".join([view for view in self.policy_views if view not in VIEWS][:1])
        return [
            ("policy_views", bool(self.make) or not unknown, one_of(unknown, VIEWS)),
            ("policy_views", len(set(self.policy_views)) == len(self.policy_views), "name each view once"),
            ("policy_views", bool(self.policy_views) or not self.sees_pictures, "name at least one camera"),
        ]

    @property
    def sees_pictures(self) -> bool:
        """Whether the policy sees pictures."""
        return self.observation == "pictures"

    @property
    def cameras(self) -> tuple[str, ...]:
        """All cameras that are rendered: those of scored frames first, in their order."""
        more = self.policy_views if self.sees_pictures else ()
        return (*self.views, *(view for view in more if view not in self.views))

    @property
    def observation_size(self) -> int:
        """Length D of an observation; without its pictures, where it has some."""
        if self.observation != "state":
            return PROPRIOCEPTION_SIZE
        return OBSERVATION_SIZE if self.task == PEG_INSERTION else OBJECT_OBSERVATION_SIZE

    @property
    def action_size(self) -> int:
        """Length A of an action; the seventh entry moves the gripper, which the insertion start keeps shut."""
        return 6 if self.start == "insertion" else 7


class SimulatedEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """One simulated robot with a task.

    Observation: what the config says. The state is float32 [D] and differs from task to task; proprioception is float32
    [14]; pictures are a dictionary of proprioception and uint8 [H, W, 3] for each of the policy's views.

    Action: float32 in [−1, 1]; translation (3) and rotation vector (3) of the tool in the robot's base frame, scaled by
    the config; with the standard start a seventh entry opens (1) or shuts (−1) the gripper, with the insertion start it
    stays shut. Reward: 1.0 on success, else 0.0. Success terminates, the horizon truncates; nothing resets by itself.

    infos hold `success` (bool); `scored_views` (uint8 [V, H, W, 3]) at reset, every `stride` steps and at the episode's
    last step; and `oracle_progress` (float in [0, 1]) where the config asks for it.

    Args:
        task: of the config.
        scene: what is simulated; closed with the environment.
    """

    def __init__(self, config: EnvConfig, task: Task, scene: TabletopScene) -> None:
        self.config, self.environment_step, self._stride = config, 0, config.stride
        self.task = task
        self._scene, self._scores, self._looks = scene, bool(config.views), config.sees_pictures
        self._rendered: Views | None = None
        self._ends_on_success = True
        self._insertion = config.start == "insertion"
        vector = gymnasium.spaces.Box(-np.inf, np.inf, (config.observation_size,), np.float32)
        self.observation_space = _with_pictures(vector, config) if config.sees_pictures else vector
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (config.action_size,), np.float32)

    @property
    def instructions(self) -> tuple[str, ...]:
        """Wordings of the task; the first is the canonical one."""
        return self.task.instructions

    def tool_pose(self) -> NDArray[np.float32]:
        """The tool's pose in the robot's base frame, float32 [7] (dopamine_rl.types.Demonstration)."""
        return position_and_quaternion(self.state().tool)

    def ends_near(self) -> bool:
        """Whether a failure that ends now came close to success."""
        return self.task.near_miss is not None and self.task.near_miss(self.observe_state())

    def state(self) -> Any:
        """The simulator's true state, for scripted experts and evaluation."""
        raise NotImplementedError

    def true_progress(self) -> float:
        """How far along the task really is, in [0, 1]."""
        raise NotImplementedError

    def dense_reward(self) -> float:
        """ManiSkill's dense reward of the state now, in [0, 1]. Raises BadInput for all tasks but the peg insertion."""
        raise BadInput("env.task", self.config.task, f"write {PEG_INSERTION}: the dense reward is that task's")

    def observe_state(self) -> NDArray[np.float32]:
        """The state now, as observation state has it: float32 [D]."""
        raise NotImplementedError

    def observe(self) -> Observation:
        """The observation now, as the config says."""
        if self.config.observation == "state":
            return self.observe_state()
        vector = self._scene.proprioception()
        if not self._looks:
            return vector
        pictures = self._pictures()
        return {PROPRIOCEPTION: vector} | {
            view: pictures[self.config.cameras.index(view)] for view in self.config.policy_views
        }

    def _begin(self, seed: int) -> None:
        """Put the scene into the start state of a seed."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; the same seed gives the same start, bit for bit, whatever came before.

        Args:
            options: {"pictures": False} scores no frame in this episode, for evaluations that only count; {"blind":
                True} observes proprioception in place of pictures, for scripts that do not look; {"stride": K} scores
                every K-th step of this episode, whatever the config says; with {"ends_on_success": False} success
                neither ends this episode, nor pays, nor has a frame scored.
        """
        super().reset(seed=seed)
        options = options or {}
        self._scores = bool(self.config.views) and options.get("pictures", True)
        self._looks = self.config.sees_pictures and not options.get("blind", False)
        self._stride = options.get("stride", self.config.stride)
        self._ends_on_success = options.get("ends_on_success", True)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._rendered = None
        self._begin(seed)
        if self._scores or self._looks:
            self._scene.show(seed)
        self.environment_step = 0
        self._read()
        return self.observe(), self._infos(success=False, scored=True)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Act for one control period (50 ms)."""
        self._rendered = None
        success = bool(self._scene.step(self._to_simulator(action))[-1]["success"][0])
        self.environment_step += 1
        self._read()
        ended = success and self._ends_on_success
        truncated = not ended and self.environment_step >= self.config.horizon
        scored = ended or truncated or self.environment_step % self._stride == 0
        return self.observe(), float(ended), ended, truncated, self._infos(success, scored)

    def render_views(self) -> Views:
        """Render all views now, scored or not: uint8 [V, H, W, 3]."""
        if not self.config.views:
            raise BadInput("env.views", self.config.views, "name the cameras to render")
        return self._pictures()[: len(self.config.views)]

    def _pictures(self) -> Views:
        """The pictures of all cameras now, rendered once a step."""
        if self._rendered is None:
            self._rendered = self._scene.pictures()
        return self._rendered

    def _read(self) -> None:
        """Read what the state needs after every change of the scene."""

    def restore(
        self, states: Mapping[str, Mapping[str, NDArray[np.float32]]], first: bool = False
    ) -> NDArray[np.float32]:
        """Put every body into a recorded state: kind -> name -> float32 [...], as ManiSkill's trajectories hold them.

        Args:
            first: the episode begins with this state, and true progress is measured from it.
        Returns:
            The state there, as observation state has it.
        Raises:
            BadInput: a body that the scene does not have.
        """
        self._rendered = None
        self._scene.restore(states)
        self._read()
        return self.observe_state()

    @property
    def place(self) -> PrecisePlace:
        """Where the task asks for precision. Raises BadInput where it does nowhere."""
        if self.task.place is None:
            raise BadInput("env.task", self.config.task, "choose a task that goes into a hole: a peg's or a charger's")
        return self.task.place

    def put(self, where: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put the held object, at rest and turned the right way, before that place.

        Args:
            where: [gap, y, z], metres (actors.tasks.task.PrecisePlace).
        Returns:
            [gap, y, z] where it came to rest.
        Raises:
            BadInput: the task has no such place.
            RuntimeError: the arm cannot reach that.
        """
        self._rendered = None
        self.place.put(self._scene, where)
        self._read()
        return self.place.where(self.state())

    def close(self) -> None:
        """Release the scene's memory."""
        self._scene.close()

    def _to_simulator(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert an action to ManiSkill's units (opposite sense of rotation); an uncontrolled gripper is shut."""
        clipped = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        if clipped.shape != self.action_space.shape:
            raise BadInput("action", clipped.shape, f"give an action of shape {self.action_space.shape}")
        translation = clipped[:3] * (self.config.translation_m / FULL_SCALE_M)
        rotation = clipped[3:6] * (-self.config.rotation_rad / FULL_SCALE_RAD)
        gripper = [-1.0] if self._insertion else clipped[6:]
        return np.concatenate([translation, rotation, gripper]).astype(np.float32)

    def _infos(self, success: bool, scored: bool) -> dict[str, Any]:
        infos: dict[str, Any] = {"success": success}
        if scored and self._scores:
            infos["scored_views"] = self.render_views()
        if self.config.oracle:
            infos["oracle_progress"] = 1.0 if success else self.true_progress()
        return infos


def _with_pictures(vector: gymnasium.spaces.Box, config: EnvConfig) -> gymnasium.spaces.Dict:
    """The space of proprioception and the pictures of the policy's views."""
    shape = (config.image_size, config.image_size, 3)
    pictures = {view: gymnasium.spaces.Box(0, 255, shape, np.uint8) for view in config.policy_views}
    return gymnasium.spaces.Dict({PROPRIOCEPTION: vector, **pictures})


class PegInsertionEnv(SimulatedEnv):
    """The peg insertion, with either start. The state is float32 [30] (`actors.peg_state.observation`).

    Raises:
        RenderingUnavailable: there is no usable Vulkan driver.
    """

    def __init__(self, config: EnvConfig, task: Task) -> None:
        from actors.looks import APPEARANCES  # imports torch and SAPIEN
        from actors.peg_scene import PegScene

        rebuild = config.start == "standard"
        self._peg_scene = PegScene(task.cameras, config.cameras, config.image_size, APPEARANCES[config.look], rebuild)
        super().__init__(config, task, self._peg_scene)
        if self._insertion:
            self._peg_scene.build(config.geometry_seed)

    def state(self) -> PegState:
        """The simulator's true state, for scripted experts and evaluation."""
        return self._peg_scene.state()

    def true_progress(self) -> float:
        """As `actors.peg_state.true_progress` has it."""
        return true_progress(self.state(), self._peg_scene.grasped(), from_grasp=self._insertion)

    def dense_reward(self) -> float:
        """See SimulatedEnv."""
        return self._peg_scene.dense_reward()

    def observe_state(self) -> NDArray[np.float32]:
        """See SimulatedEnv."""
        return observation(self.state())

    def _begin(self, seed: int) -> None:
        if self._insertion:
            self._peg_scene.place_grasped(self._start(np.random.default_rng(seed)))
        else:
            self._peg_scene.reset(seed=seed)

    def _start(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the pose of the peg's head in the hole's frame."""
        config = self.config
        y, z = rng.uniform(-config.lateral_m, config.lateral_m, 2)
        turn = Rotation.from_rotvec(rng.uniform(-config.angle_rad, config.angle_rad, 3)).as_matrix()
        return pose([-self.state().half_length - config.standoff_m, y, z], turn)


class ObjectEnv(SimulatedEnv):
    """A task in which one object is brought to its goal, for demonstrations.

    The state is float32 [10], metres in the robot's base-aligned world frame: positions of tool, object and goal (3
    each), and whether the object is held. It is a record of what happened and not made to learn from.
    """

    def __init__(self, config: EnvConfig, task: ObjectTask) -> None:
        from actors.looks import APPEARANCES  # imports torch and SAPIEN
        from actors.scene import build_scene

        scene = build_scene(task, config.cameras, config.image_size, APPEARANCES[config.look])
        super().__init__(config, task, scene)
        self._task = task

    def state(self) -> ObjectState:
        """The simulator's true state, read once a step, for scripted experts and evaluation."""
        return self._state

    def true_progress(self) -> float:
        """As the task has it."""
        return self._task.progress(self.state(), self._first)

    def _read(self) -> None:
        self._state = self._task.read(self._scene)

    def observe_state(self) -> NDArray[np.float32]:
        """See SimulatedEnv."""
        state = self._state
        positions = [matrix[:3, 3] for matrix in (state.tool, state.item, state.goal)]
        return np.concatenate([*positions, [state.grasped]]).astype(np.float32)

    def restore(
        self, states: Mapping[str, Mapping[str, NDArray[np.float32]]], first: bool = False
    ) -> NDArray[np.float32]:
        """See SimulatedEnv."""
        observed = super().restore(states)
        if first:
            self._first = self._state
        return observed

    def _begin(self, seed: int) -> None:
        self._scene.reset(seed=seed)
        self._first = self._task.read(self._scene)
