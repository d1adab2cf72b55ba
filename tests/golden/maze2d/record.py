"""Records the Maze2D goldens with PyPI's MuJoCo.

    python -m venv venv
    venv/bin/pip install mujoco==3.17.0 numpy==2.4.6 safetensors==0.8.0
    venv/bin/python record.py

Writes rollouts.safetensors beside itself; the README says what each tensor is. The model is that of D4RL's maze2d, written
anew from its description.
"""

from pathlib import Path

import mujoco
import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
STEPS = 300
MAZES = [
    "#####|#GOO#|###O#|#OOO#|#####",
    "########|#OO##OO#|#OO#OOO#|##OOO###|#OO#OOO#|#O#OO#O#|#OOO#OG#|########",
    "############|#OOOO#OOOOO#|#O##O#O#O#O#|#OOOOOO#OOO#|#O####O###O#|#OO#O#OOOOO#|##O#O#O#O###|#OO#OOO#OGO#|############",
]
KINDS = ["wander", "press", "slide", "bounce"]


def model(rows):
    walls = "".join(
        f'<geom conaffinity="1" type="box" pos="{i + 1} {j + 1} 0" size="0.5 0.5 0.2"/>'
        for i, row in enumerate(rows)
        for j, tile in enumerate(row)
        if tile == "#"
    )
    # A margin of 0.001 for each geom: MuJoCo 3.17 adds the two, D4RL's took the larger of 0.002 and 0.002.
    return mujoco.MjModel.from_xml_string(
        f"""<mujoco>
        <compiler inertiafromgeom="true" angle="radian"/>
        <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
        <default>
          <joint damping="1" limited="false"/>
          <geom friction=".5 .1 .1" density="1000" margin="0.001" condim="1" contype="2" conaffinity="1"/>
        </default>
        <worldbody>
          <body name="particle" pos="1.2 1.2 0">
            <geom type="sphere" size="0.1" contype="1"/>
            <joint name="x" type="slide" axis="1 0 0"/>
            <joint name="y" type="slide" axis="0 1 0"/>
          </body>
          {walls}
        </worldbody>
        <actuator>
          <motor joint="x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
          <motor joint="y" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
        </actuator>
        </mujoco>"""
    )


def actions(kind, rng):
    """wander: new forces every few steps. press: one corner for long. slide: along a wall. bounce: full force, turned."""
    done = 0
    while done < STEPS:
        count = {"wander": rng.integers(3, 20), "press": rng.integers(60, 120)}.get(kind, rng.integers(15, 60))
        force = rng.uniform(-1.5, 1.5, 2)
        if kind == "press":
            force = np.sign(force) * rng.uniform(0.5, 1.5, 2)
        elif kind == "slide":
            force[rng.integers(2)] *= 0.1
        elif kind == "bounce":
            force = np.sign(force) * rng.choice([0.0, 1.5], 2)
        for _ in range(count):
            yield force
            done += 1


def main():
    start, action, state, contacts, maze = [], [], [], [], []
    for index, text in enumerate(MAZES):
        rows = text.split("|")
        physics = model(rows)
        free = [(i, j) for i, row in enumerate(rows) for j, tile in enumerate(row) if tile != "#"]
        for run, kind in enumerate(KINDS * 2):
            rng = np.random.default_rng([20261123, index, run])
            data = mujoco.MjData(physics)
            data.qpos[:] = np.array(free[rng.integers(len(free))]) + rng.uniform(-0.1, 0.1, 2)
            data.qvel[:] = rng.normal(0.0, 2.0, 2)
            maze.append(index)
            start.append(np.concatenate([data.qpos, data.qvel]))
            states, touched, done = [], [], []
            for force in list(actions(kind, rng))[:STEPS]:
                data.qvel[:] = np.clip(data.qvel, -5.0, 5.0)
                data.ctrl[:] = np.clip(force, -1.0, 1.0)
                mujoco.mj_step(physics, data)
                states.append(np.concatenate([data.qpos, data.qvel]))
                touched.append(data.ncon)
                done.append(force)
            state.append(states)
            contacts.append(touched)
            action.append(done)
    contacts = np.array(contacts, dtype=np.uint8)
    save_file(
        {
            "maze": np.array(maze, dtype=np.uint8),
            "start": np.array(start),
            "action": np.array(action),
            "state": np.array(state),
            "contacts": contacts,
        },
        HERE / "rollouts.safetensors",
    )
    print(len(maze), "rollouts,", int((contacts > 0).sum()), "of", contacts.size, "steps in contact, most", contacts.max())


if __name__ == "__main__":
    main()
