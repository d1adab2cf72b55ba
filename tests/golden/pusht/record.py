"""Records the PushT goldens with PyPI's gym-pusht.

    python -m venv venv
    venv/bin/pip install gym-pusht==0.1.8 pymunk==6.6.0 gymnasium==1.4.0 numpy==2.4.6 shapely==2.2.0 safetensors==0.8.0
    SDL_VIDEODRIVER=dummy venv/bin/python record.py

Writes starts.safetensors, rollouts.safetensors and coverage.safetensors beside itself. Everything is f64; the README says
what each tensor is.
"""

import os
from pathlib import Path

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import gymnasium
import gym_pusht  # noqa: F401  (registers the environment)
import numpy as np
import pymunk
import shapely
from gym_pusht.envs.pusht import pymunk_to_shapely
from safetensors.numpy import save_file

HERE = Path(__file__).parent
STEPS = 150
CENTRE_OF_MASS = np.array([0.0, 45.0])
WALLS = [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)]
CORNERS = [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)]


def environment(obs_type="state"):
    return gymnasium.make("gym_pusht/PushT-v0", obs_type=obs_type).unwrapped


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def state(env):
    """Agent x, y, block x, y and the angle as the physics holds it: not reduced modulo 2 pi."""
    return np.array([*env.agent.position, *env.block.position, env.block.angle])


def centre(env):
    return np.array(env.block.position) + rotation(env.block.angle) @ CENTRE_OF_MASS


def wall_contacts(env):
    """The contact points between the block and the walls after the last substep."""
    count = [0]

    def visit(arbiter):
        if any(isinstance(shape, pymunk.Segment) for shape in arbiter.shapes):
            count[0] += len(arbiter.contact_point_set.points)

    env.block.each_arbiter(visit)
    return count[0]


# --- What the agent does. Each is a generator: it is sent the environment and yields actions. ---


def wander(rng, env):
    """Targets on the block and around it, held for a few steps: pushes, turns and misses. The agent keeps to the middle,
    so that most of these rollouts stay clear of the walls."""
    while True:
        target = np.clip(centre(env) + rng.normal(0.0, 70.0, 2), 150.0, 362.0)
        for _ in range(rng.integers(1, 8)):
            yield target


def circle(rng, env, away):
    """Moves round the block to the side that faces away from `away`, without touching it if it can."""
    for _ in range(25):
        offset = np.array(env.agent.position) - centre(env)
        angle = np.arctan2(offset[1], offset[0])
        goal = np.arctan2(-away[1], -away[0])
        turn = (goal - angle + np.pi) % (2.0 * np.pi) - np.pi
        if abs(turn) < 0.2:
            return
        angle += np.clip(turn, -0.5, 0.5)
        yield centre(env) + 125.0 * np.array([np.cos(angle), np.sin(angle)])


def press(rng, env, directions, lateral, hold):
    """Pushes the block towards a wall or a corner and past it, swinging sideways so that it turns and slides there."""
    while True:
        direction = np.array(directions[rng.integers(len(directions))])
        direction = direction / np.linalg.norm(direction)
        side = np.array([-direction[1], direction[0]])
        yield from circle(rng, env, direction)
        phase = rng.uniform(0.0, 2.0 * np.pi)
        rate = rng.uniform(0.05, 0.4)
        for k in range(rng.integers(hold, 2 * hold)):
            swing = lateral * np.sin(phase + rate * k)
            yield centre(env) + 45.0 * direction + swing * side + rng.normal(0.0, 3.0, 2)


def sweep(rng, env):
    """Keeps the agent on the far side of the walls, at and beyond them, and sweeps along the frame."""
    while True:
        horizontal = rng.random() < 0.5
        level = rng.choice([-15.0, 0.0, 5.0, 12.0, 500.0, 506.0, 512.0, 527.0])
        start, stop = rng.permutation([rng.uniform(-20.0, 150.0), rng.uniform(360.0, 530.0)])
        for along in np.linspace(start, stop, rng.integers(12, 30)):
            yield np.array([along, level] if horizontal else [level, along])


def flush(rng, env):
    """Pushes straight at one wall with the block's own axes parallel to it: both support edges parallel."""
    direction = np.array([0.0, 1.0]) if rng.random() < 0.5 else np.array([1.0, 0.0])
    if rng.random() < 0.5:
        direction = -direction
    while True:
        yield from circle(rng, env, direction)
        for _ in range(rng.integers(20, 40)):
            yield centre(env) + 40.0 * direction
        side = np.array([-direction[1], direction[0]])
        direction = side if rng.random() < 0.5 else -side


def starting_state(rng, kind):
    near = kind in ("wall", "corner", "outside")
    block = rng.uniform(60.0, 450.0, 2) if near else rng.integers(100, 400, 2).astype(float)
    angle = rng.uniform(-np.pi, np.pi)
    if kind == "flush":
        angle = rng.integers(-2, 3) * np.pi / 2.0
    agent = rng.integers(50, 450, 2).astype(float)
    if kind == "outside":
        # The block starts across a wall, so that the first substeps push it out of a deep overlap.
        block[rng.integers(2)] = rng.choice([0.0, 15.0, 490.0, 505.0])
        agent = rng.uniform(-20.0, 530.0, 2)
    return np.array([*agent, *block, angle])


def actions(rng, env, kind):
    match kind:
        case "free":
            return wander(rng, env)
        case "wall":
            return press(rng, env, WALLS, lateral=rng.uniform(10.0, 60.0), hold=20)
        case "corner":
            return press(rng, env, CORNERS, lateral=rng.uniform(0.0, 40.0), hold=30)
        case "outside":
            return sweep(rng, env)
        case "flush":
            return flush(rng, env)


def record_starts():
    seeds = [*range(16), *range(100_000, 100_012)]
    seeds += [2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**48 + 12_345, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
    env = environment()
    points = environment("environment_state_agent_pos")
    observations, key_points = [], []
    for seed in seeds:
        observations.append(env.reset(seed=seed)[0])
        key_points.append(points.reset(seed=seed)[0]["environment_state"])
    save_file(
        {
            "seed": np.array(seeds, dtype=np.uint64),
            "observation": np.array(observations),
            "key_points": np.array(key_points),
        },
        HERE / "starts.safetensors",
    )


def record_rollouts():
    kinds = ["free"] * 24 + ["wall"] * 16 + ["corner"] * 12 + ["outside"] * 8 + ["flush"] * 8
    env = environment()
    columns = {name: [] for name in ("start", "action", "state", "coverage", "reward", "wall_contacts")}
    for index, kind in enumerate(kinds):
        rng = np.random.default_rng([20_260, index])
        start = starting_state(rng, kind)
        env.reset(seed=0, options={"reset_to_state": start})
        policy = actions(rng, env, kind)
        rows = {name: [] for name in columns if name != "start"}
        rows["state"].append(state(env))
        for _ in range(STEPS):
            action = np.asarray(next(policy), dtype=np.float64)
            _, reward, _, _, info = env.step(action)
            rows["action"].append(action)
            rows["state"].append(state(env))
            rows["coverage"].append(info["coverage"])
            rows["reward"].append(reward)
            rows["wall_contacts"].append(wall_contacts(env))
        columns["start"].append(start)
        for name, values in rows.items():
            columns[name].append(np.array(values))
    tensors = {name: np.array(values) for name, values in columns.items()}
    tensors["wall_contacts"] = tensors["wall_contacts"].astype(np.uint8)
    save_file(tensors, HERE / "rollouts.safetensors", metadata={"kinds": ",".join(kinds)})
    for kind in dict.fromkeys(kinds):
        chosen = [i for i, k in enumerate(kinds) if k == kind]
        counts = tensors["wall_contacts"][chosen]
        print(kind, len(chosen), "rollouts,", int((counts > 0).sum()), "steps at a wall, at most", int(counts.max()), "contacts")


def record_coverage():
    rng = np.random.default_rng(20_261)
    env = environment()
    env.reset(seed=0)
    goal = pymunk_to_shapely(env.get_goal_pose_body(env.goal_pose), env.block.shapes)
    poses, coverage = [], []
    spreads = [3.0, 15.0, 60.0, 200.0]
    for index in range(400):
        spread = spreads[index % 4]
        pose = np.array([*rng.normal(256.0, spread, 2), np.pi / 4.0 + rng.normal(0.0, spread / 60.0)])
        if index >= 390:
            # The goal pose itself, and quarter turns of it: edges on edges.
            pose = np.array([256.0, 256.0, np.pi / 4.0 + (index - 390) * np.pi / 2.0])
        env.block.angle = pose[2]
        env.block.position = pose[:2].tolist()
        block = pymunk_to_shapely(env.block, env.block.shapes)
        # The same quantity as PushTEnv._get_coverage, but clip by clip: where edges coincide GEOS may refuse the
        # intersection of two multi-polygons whose parts share an edge.
        area = sum(shapely.intersection(a, b).area for a in goal.geoms for b in block.geoms)
        whole = area / goal.area
        if index < 390:
            assert abs(whole - env._get_coverage()) < 1e-12, (pose, whole, env._get_coverage())
        poses.append(pose)
        coverage.append(whole)
    save_file({"pose": np.array(poses), "coverage": np.array(coverage)}, HERE / "coverage.safetensors")


if __name__ == "__main__":
    record_starts()
    record_rollouts()
    record_coverage()
