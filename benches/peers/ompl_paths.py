"""OMPL's RRT-Connect with its own simplification, on problems that `clearway plan clutter --problems-out` wrote.

    python -m venv /tmp/ompl-venv && /tmp/ompl-venv/bin/pip install ompl==2.0.1 numpy==2.4.6
    clearway plan clutter --planner rrt-connect --problems-out problems.json
    /tmp/ompl-venv/bin/python benches/peers/ompl_paths.py problems.json --runs 100

It prints one JSON object: the share of problems that are solved within the time, the share of valid runs, the length of the
paths, and the time of a plan, most of which is spent in Python, where the state checker is. Whether a path is valid is judged here and not by OMPL: every segment is sampled each
tenth of a millimetre against the exact distances of discs and rounded boxes. Lengths are of valid paths. OMPL checks motions
at a resolution; it is set to a tenth of the robot's radius here.
"""

import argparse
import json
import time

import numpy as np
from ompl import base as ob
from ompl import geometric as og
from ompl import util as ou


def distances(problem, points):
    """Signed distances of points [n, 2] to the nearest obstacle, less the robot's radius."""
    least = np.full(len(points), np.inf)
    for obstacle in problem["obstacles"]:
        (kind, shape), = obstacle.items()
        if kind not in ("disc", "box"):
            raise SystemExit(f"obstacles of the kind `{kind}` are not known here")
        away = points - np.asarray(shape.get("center", [0.0, 0.0]))
        if kind == "disc":
            distance = np.hypot(away[:, 0], away[:, 1]) - shape["radius"]
        else:
            angle = shape.get("angle", 0.0)
            c, s = np.cos(angle), np.sin(angle)
            local = np.abs(away @ np.array([[c, -s], [s, c]]))
            rounding = shape.get("rounding", 0.0)
            outside = local - (np.asarray(shape["edges"]) / 2.0 - rounding)
            distance = (
                np.hypot(*np.maximum(outside, 0.0).T)
                + np.minimum(outside.max(axis=1), 0.0)
                - rounding
            )
        least = np.minimum(least, distance)
    return least - problem["radius"]


def is_valid(problem, path):
    for a, b in zip(path[:-1], path[1:]):
        count = max(2, int(np.ceil(np.linalg.norm(b - a) / 1e-4)) + 1)
        points = a + np.linspace(0.0, 1.0, count)[:, None] * (b - a)
        if distances(problem, points).min() < -1e-9:
            return False
    return True


def checker_of(problem):
    """Whether one state is free, in plain Python: arrays of one point would take ten times as long."""
    discs, boxes, radius = [], [], problem["radius"]
    for obstacle in problem["obstacles"]:
        (kind, shape), = obstacle.items()
        x, y = shape["center"]
        if kind == "disc":
            discs.append((x, y, (shape["radius"] + radius) ** 2))
        else:
            if shape.get("angle", 0.0) != 0.0:
                raise SystemExit("boxes that are turned are not known here")
            rounding = shape.get("rounding", 0.0)
            u, v = (edge / 2.0 - rounding for edge in shape["edges"])
            boxes.append((x, y, u, v, rounding + radius))

    def is_free(state):
        p, q = state[0], state[1]
        for x, y, square in discs:
            if (p - x) ** 2 + (q - y) ** 2 < square:
                return False
        for x, y, u, v, reach in boxes:
            a, b = abs(p - x) - u, abs(q - y) - v
            if a < reach and b < reach:
                if a <= 0.0 or b <= 0.0 or a * a + b * b < reach * reach:
                    return False
        return True

    return is_free


def plan(problem, seconds):
    """One run: the path, or None, and the time."""
    space = ob.RealVectorStateSpace(2)
    bounds = ob.RealVectorBounds(2)
    for axis in range(2):
        bounds.setLow(axis, problem["limits"]["lower"][axis])
        bounds.setHigh(axis, problem["limits"]["upper"][axis])
    space.setBounds(bounds)
    setup = og.SimpleSetup(space)

    is_free = checker_of(problem)

    setup.setStateValidityChecker(is_free)
    information = setup.getSpaceInformation()
    resolution = 0.1 * problem["radius"] / space.getMaximumExtent()
    information.setStateValidityCheckingResolution(resolution)
    ends = []
    for key in ["start", "goal"]:
        state = space.allocState()
        for axis in range(2):
            state[axis] = problem[key][axis]
        ends.append(state)
    setup.setStartAndGoalStates(*ends)
    setup.setPlanner(og.RRTConnect(information))
    begun = time.perf_counter()
    solved = setup.solve(seconds)
    if not (solved and setup.haveExactSolutionPath()):
        return None, time.perf_counter() - begun
    setup.simplifySolution()
    elapsed = time.perf_counter() - begun
    states = setup.getSolutionPath().getStates()
    return np.array([[state[0], state[1]] for state in states]), elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems")
    parser.add_argument("--runs", type=int, default=10, help="runs of each problem")
    parser.add_argument("--seconds", type=float, default=1.0, help="the most time of a run")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    ou.RNG.setSeed(arguments.seed)
    ou.setLogLevel(ou.LOG_ERROR)
    problems = json.load(open(arguments.problems))
    solved, valid, runs, lengths, times = 0, 0, 0, [], []
    for problem in problems:
        some = False
        for _ in range(arguments.runs):
            path, elapsed = plan(problem, arguments.seconds)
            runs += 1
            times.append(1e3 * elapsed)
            if path is not None and is_valid(problem, path):
                some = True
                valid += 1
                lengths.append(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
        solved += some
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    print(
        json.dumps(
            {
                "planner": "OMPL RRT-Connect, simplified",
                "problems": len(problems),
                "runs": arguments.runs,
                "success_rate": solved / len(problems),
                "valid_fraction": valid / runs,
                "path_length": float(np.mean(lengths)) if lengths else None,
                "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
