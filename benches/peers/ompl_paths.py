"""OMPL's RRT-Connect with its own simplification, on problems that `clearway plan clutter --problems-out` wrote.

    python -m venv ompl && ompl/bin/pip install ompl==2.0.1 numpy==2.4.6
    clearway plan clutter --planner rrt-connect --candidates 1 --problems-out problems.json
    ompl/bin/python benches/peers/ompl_paths.py problems.json --runs 100 --out paths.json
    clearway plan clutter --problem problems.json --paths paths.json

It prints one JSON object: the share of problems that are solved within the time, the share of valid runs, the length of the
paths, and the time of a plan. Whether a path is valid is judged here and not by OMPL: every segment is sampled each tenth of
a millimetre against the exact distances of discs and rounded boxes. The last command judges the same paths as Clearway judges
its own: by proof.

Most of the time is spent in Python, where the checker of states is, and `checks` says how often it is asked in the median
plan. OMPL checks motions at a resolution, which is set to a tenth of the robot's radius here; its default, a
hundredth of the plane's extent, is more than that radius. Everything else is its own default.
"""

import argparse
import json
import time
from importlib.metadata import version

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
        for step in (1e-3, 1e-4):
            count = max(2, int(np.ceil(np.linalg.norm(b - a) / step)) + 1)
            points = a + np.linspace(0.0, 1.0, count)[:, None] * (b - a)
            least = distances(problem, points).min()
            if least >= step:
                # No distance changes faster than the way is long: what is between the samples is free too.
                break
            if least < -1e-9:
                return False
    return True


# Cells a side of the lattice in which obstacles are looked up.
CELLS = 64


def checker_of(problem):
    """Whether one state is free, in plain Python: arrays of one point would take ten times as long.

    Each cell of a lattice has the obstacles that reach into it, so that a check looks at few.
    """
    radius, shapes = problem["radius"], []
    for obstacle in problem["obstacles"]:
        (kind, shape), = obstacle.items()
        x, y = shape["center"]
        if kind == "disc":
            shapes.append((x, y, 0.0, 0.0, shape["radius"] + radius))
        elif kind == "box" and shape.get("angle", 0.0) == 0.0:
            rounding = shape.get("rounding", 0.0)
            u, v = (edge / 2.0 - rounding for edge in shape["edges"])
            shapes.append((x, y, u, v, rounding + radius))
        else:
            raise SystemExit(f"{obstacle} is not known here")
    (left, low), (right, high) = problem["limits"]["lower"], problem["limits"]["upper"]
    width, height = (right - left) / CELLS, (high - low) / CELLS
    cells = [[] for _ in range(CELLS * CELLS)]
    for shape in shapes:
        x, y, u, v, reach = shape
        for i in range(CELLS):
            for j in range(CELLS):
                # From the middle of the cell, along each axis.
                away = abs(left + (i + 0.5) * width - x) - u - width / 2.0, abs(low + (j + 0.5) * height - y) - v - height / 2.0
                if max(away) <= reach:
                    cells[i * CELLS + j].append(shape)
    last = CELLS - 1

    def is_free(state):
        p, q = state[0], state[1]
        i, j = min(int((p - left) / width), last), min(int((q - low) / height), last)
        for x, y, u, v, reach in cells[i * CELLS + j]:
            a, b = abs(p - x) - u, abs(q - y) - v
            if a < reach and b < reach:
                if a <= 0.0 or b <= 0.0 or a * a + b * b < reach * reach:
                    return False
        return True

    return is_free


def plan(problem, is_free, seconds):
    """One run: the path, or None, the time in seconds, and how many states were checked."""
    space = ob.RealVectorStateSpace(2)
    bounds = ob.RealVectorBounds(2)
    for axis in range(2):
        bounds.setLow(axis, problem["limits"]["lower"][axis])
        bounds.setHigh(axis, problem["limits"]["upper"][axis])
    space.setBounds(bounds)
    setup = og.SimpleSetup(space)

    checks = 0

    def counted(state):
        nonlocal checks
        checks += 1
        return is_free(state)

    setup.setStateValidityChecker(counted)
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
        return None, time.perf_counter() - begun, checks
    setup.simplifySolution()
    elapsed = time.perf_counter() - begun
    states = setup.getSolutionPath().getStates()
    return np.array([[state[0], state[1]] for state in states]), elapsed, checks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems")
    parser.add_argument("--runs", type=int, default=10, help="runs of each problem")
    parser.add_argument("--seconds", type=float, default=1.0, help="the most time of a run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episodes", type=int, help="the first problems of the file alone")
    parser.add_argument("--out", help="write the paths, for `clearway plan clutter --paths`")
    arguments = parser.parse_args()
    ou.setLogLevel(ou.LOG_ERROR)
    ou.RNG.setSeed(arguments.seed)
    with open(arguments.problems) as file:
        problems = json.load(file)[: arguments.episodes]
    solved, valid, lengths, times, checks, answers = 0, 0, [], [], [], []
    for problem in problems:
        is_free = checker_of(problem)
        some, answer = False, {"paths": [], "milliseconds": []}
        for _ in range(arguments.runs):
            path, elapsed, checked = plan(problem, is_free, arguments.seconds)
            times.append(1e3 * elapsed)
            checks.append(checked)
            answer["milliseconds"].append(1e3 * elapsed)
            answer["paths"].append(None if path is None else path.tolist())
            if path is not None and is_valid(problem, path):
                some = True
                valid += 1
                lengths.append(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
        answers.append(answer)
        solved += some
    name = f"OMPL {version('ompl')}: RRT-Connect, simplified"
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump({"planner": name, "answers": answers}, file)
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    report = {
        "planner": name,
        "problems": len(problems),
        "runs": arguments.runs,
        "success_rate": solved / len(problems),
        "valid_fraction": valid / len(times),
        "path_length": float(np.mean(lengths)) if lengths else None,
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
        "checks": float(np.median(checks)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
