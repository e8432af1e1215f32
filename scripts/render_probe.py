"""Render one tiny picture of a box on the CPU; print the driver and exit 0 only if the box is in it."""

import numpy as np
import sapien

scene = sapien.Scene([sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem("cpu")])
scene.set_ambient_light([1.0, 1.0, 1.0])
builder = scene.create_actor_builder()
builder.add_box_visual(half_size=[0.1, 0.1, 0.1], material=[1.0, 0.0, 0.0])
builder.build_static().set_pose(sapien.Pose([1.0, 0.0, 0.0]))
camera = scene.add_camera("camera", width=16, height=16, fovy=1.0, near=0.01, far=10.0)
scene.update_render()
camera.take_picture()
red = np.asarray(camera.get_picture("Color"))[8, 8, 0]
summary = sapien.render.get_device_summary()
print(next((line.partition(":")[2].strip() for line in summary.splitlines() if line.startswith("GPU:")), "unnamed"))
raise SystemExit(None if red > 0.1 else f"the box is missing from the picture: red = {red}")
