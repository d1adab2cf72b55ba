"""Records what gym-pusht's camera sees, with PyPI's packages.

    python -m venv venv
    venv/bin/pip install gym-pusht==0.1.8 pymunk==6.6.0 gymnasium==1.4.0 numpy==2.4.6 safetensors==0.8.0 \
        pygame==2.6.1 opencv-python==4.14.0.94
    SDL_VIDEODRIVER=dummy venv/bin/python record_pictures.py

Reads rollouts.safetensors, which record.py has written, and writes pictures.safetensors beside itself; the README says
what each tensor is.
"""

from pathlib import Path

import numpy as np
import pygame
from record import environment
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
SEEDS = [*range(10), *range(100_000, 100_020)]
FAR = -10_000.0


def poses(rng):
    """Agent x, y, block x, y, angle: anywhere, on pixel borders at level angles, across the border, out of view."""
    anywhere = [[*rng.uniform(0.0, 512.0, 2), *rng.uniform(60.0, 450.0, 2), rng.uniform(-12.0, 12.0)] for _ in range(12)]
    level = [
        [*(rng.integers(30, 480, 2) + 0.5), *(rng.integers(150, 360, 2) + 0.5), k * np.pi / 4.0] for k in range(8)
    ]
    across = []
    for side in range(8):
        block = rng.uniform(60.0, 450.0, 2)
        block[side % 2] = [-20.0, 530.0][side // 2 % 2] if side < 4 else [5.0, 508.0][side // 2 % 2]
        agent = rng.uniform(0.0, 512.0, 2)
        agent[side % 2] = [-8.0, 520.0][side // 2 % 2]
        across.append([*agent, *block, rng.uniform(-np.pi, np.pi)])
    hidden = [[FAR, 256.0, *rng.uniform(150.0, 350.0, 2), 1.0], [200.0, 100.0, 256.0, FAR, 2.0]]
    return np.array(anywhere + level + across + hidden)


def place(env, pose):
    """Puts agent and block where they are to be, without a physics step; no contact is left from before."""
    env.reset(seed=0, options={"reset_to_state": [50.0, 50.0, 256.0, 256.0, 0.0]})
    agent_x, agent_y, x, y, angle = map(float, pose)
    env.agent.position = agent_x, agent_y
    env.block.angle = angle
    env.block.position = x, y
    env.space.reindex_shapes_for_body(env.agent)
    env.space.reindex_shapes_for_body(env.block)


def picture(env):
    return np.array(env.get_obs())


def drawing(env):
    return np.transpose(pygame.surfarray.array3d(env._draw()), (1, 0, 2))


class Runs:
    """Pictures as runs of pixels in one colour: first pixel, number of pixels, colour.

    The first picture is the runs on white, the others are the runs on the first.
    """

    def __init__(self, first):
        self.background = np.full(first.size, 255, dtype=np.uint8).reshape(-1, 3)
        self.counts, self.first, self.length, self.colour = [], [], [], []
        self.add(first)
        self.background = first.reshape(-1, 3)

    def add(self, image):
        pixels = image.reshape(-1, 3)
        where = np.flatnonzero((pixels != self.background).any(axis=1))
        is_new = np.ones(len(where), dtype=bool)
        is_new[1:] = (np.diff(where) > 1) | (pixels[where[1:]] != pixels[where[:-1]]).any(axis=1)
        starts = np.flatnonzero(is_new)
        self.counts.append(len(starts))
        self.first.extend(where[starts])
        self.length.extend(np.diff([*starts, len(where)]))
        self.colour.extend(pixels[where[starts]])

    def tensors(self, name):
        return {
            f"{name}.runs": np.array(self.counts, dtype=np.uint32),
            f"{name}.first": np.array(self.first, dtype=np.uint32),
            f"{name}.length": np.array(self.length, dtype=np.uint16),
            f"{name}.colour": np.array(self.colour, dtype=np.uint8),
        }


def main():
    rng = np.random.default_rng(20_262)
    env = environment("pixels")
    place(env, [FAR, FAR, FAR, FAR, 0.0])
    pictures, drawings = Runs(picture(env)), Runs(drawing(env))

    drawn = []

    def look(at_full_size):
        if at_full_size:
            drawn.append(len(pictures.counts) - 1)
            drawings.add(drawing(env))
        pictures.add(picture(env))

    for index, seed in enumerate(SEEDS):
        env.reset(seed=seed)
        look(index % 6 == 0)
    places = poses(rng)
    for index, pose in enumerate(places):
        place(env, pose)
        look(index >= 10)
    rollouts = load_file(HERE / "rollouts.safetensors")
    moments = []
    touched = rollouts["wall_contacts"]
    for index, rollout in enumerate(np.linspace(0, len(touched) - 1, 40).astype(int)):
        # Every other one at a wall, if the rollout ever is at one.
        steps = np.flatnonzero(touched[rollout] > 0) if index % 2 else np.arange(0)
        steps = steps if len(steps) else np.arange(touched.shape[1])
        moments.append([rollout, 1 + rng.choice(steps)])
    for index, (rollout, steps) in enumerate(moments):
        env.reset(seed=0, options={"reset_to_state": rollouts["start"][rollout]})
        for action in rollouts["action"][rollout][:steps]:
            env.step(action)
        look(index % 4 == 1)
    save_file(
        {
            "seed": np.array(SEEDS, dtype=np.uint64),
            "pose": places,
            "moment": np.array(moments, dtype=np.uint64),
            "drawn": np.array(drawn, dtype=np.uint64),
            **pictures.tensors("picture"),
            **drawings.tensors("drawing"),
        },
        HERE / "pictures.safetensors",
    )


if __name__ == "__main__":
    main()
