"""The simulated tasks by their ManiSkill names. To add one, add a file here and an entry below."""

from actors.tasks.peg_insertion import PEG_INSERTION
from actors.tasks.pick_cube import PICK_CUBE
from actors.tasks.plug_charger import PLUG_CHARGER
from actors.tasks.pull_cube import PULL_CUBE
from actors.tasks.stack_cube import STACK_CUBE
from actors.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (PICK_CUBE, STACK_CUBE, PULL_CUBE, PEG_INSERTION, PLUG_CHARGER)}
