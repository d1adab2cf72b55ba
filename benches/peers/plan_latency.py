"""Clearway beside LeRobot's PyTorch: a network pass and a whole plan, alternating in one run.

Prints Markdown. Each round times LeRobot, then Clearway, then the memory; a figure is the median of the rounds' medians
with the least and the greatest of them, and a ratio is taken within each round before its median is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import lerobot_diffusion as lerobot
import numpy
import torch
from contenders import PAUSE, REPOSITORY, SLICE, figure, machine, ratio
from networks import write_policy

# Built as the README builds everything else, so that nothing is built twice.
PACKAGE = ["--release", "--quiet", "--bin", "clearway_latency"]

# Sums of products in f32 in two orders, through ten passes; relative to the largest action.
TOLERANCE = 1e-3


class LeRobot:
    """LeRobot's policy, in this process."""

    def __init__(self, folder):
        policy = lerobot.DiffusionPolicy.from_pretrained(folder).eval()
        self.config, self.model = policy.config, policy.diffusion
        self.before = lerobot.PolicyProcessorPipeline.from_pretrained(folder, "policy_preprocessor.json")
        self.after = lerobot.PolicyProcessorPipeline.from_pretrained(
            folder,
            "policy_postprocessor.json",
            to_transition=lerobot.policy_action_to_transition,
            to_output=lerobot.transition_to_policy_action,
        )
        steps = [
            self.before({name: 100.0 + 10.0 * torch.arange(feature.shape[0]) + step for name, feature in self.config.input_features.items()})
            for step in range(self.config.n_obs_steps)
        ]
        self.batch = {name: torch.stack([step[name] for step in steps], 1) for name in self.config.input_features}
        self.shape = (1, self.config.horizon, self.config.action_feature.shape[0])

    def actions(self):
        """The executed actions, in physical units, that come out of no noise."""
        with torch.inference_mode():
            return self.after(self.model.generate_actions(self.batch, noise=torch.zeros(self.shape)))[0].numpy()

    def prepare(self, timestep):
        with torch.inference_mode():
            condition = self.model._prepare_global_conditioning(self.batch)
        x, t = torch.randn(self.shape), torch.full((1,), int(timestep))
        self.calls = {
            "pass": lambda: self.model.unet(x, t, global_cond=condition),
            "plan": lambda: self.model.generate_actions(self.batch),
        }

    def time(self, what, threads, times):
        torch.set_num_threads(threads)
        call, result = self.calls[what], []
        with torch.inference_mode():
            for _ in range(times):
                begun = time.perf_counter()
                call()
                result.append((time.perf_counter() - begun) * 1e3)
        return result


class Clearway:
    """A process for each number of threads, which sleeps while it is not asked."""

    def __init__(self, folder, threads):
        self.processes = {}
        for count in threads:
            environment = dict(os.environ, RAYON_NUM_THREADS=str(count))
            command = ["cargo", "run", *PACKAGE, "--", str(folder)]
            self.processes[count] = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self.ready = self.answer(count)
            assert self.ready["threads"] == count, self.ready

    def answer(self, threads):
        line = self.processes[threads].stdout.readline()
        if not line:
            sys.exit("clearway_latency ended; what it said is above")
        return json.loads(line)

    def time(self, what, threads, times):
        self.processes[threads].stdin.write(f"{what} {times}\n")
        self.processes[threads].stdin.flush()
        return self.answer(threads)

    def close(self):
        for process in self.processes.values():
            process.stdin.close()
            process.wait()


def measure(folder, threads, rounds):
    """The medians of each round, by contender, quantity and threads, and what Clearway says of the policy."""
    peer, clearway = LeRobot(folder), Clearway(folder, threads)
    ready = clearway.ready
    peer.prepare(ready["timestep"])
    theirs, ours = peer.actions(), numpy.array(ready["actions"])
    difference = abs(theirs - ours).max()
    print(f"the same plan on both sides, up to {difference:.1e} of {abs(theirs).max():.0f}", file=sys.stderr)
    assert difference <= TOLERANCE * abs(theirs).max(), f"the two plans differ by {difference}: they do not do the same work"

    contenders = [(peer, "pass"), (clearway, "pass"), (peer, "plan"), (clearway, "plan"), (clearway, "weights"), (clearway, "memory")]
    jobs = [(*contender, count) for count in threads for contender in contenders]
    times = {}
    for contender, what, count in jobs:
        contender.time(what, count, 1)
        warm = min(contender.time(what, count, 3)) / 1e3
        times[contender, what, count] = min(100, max(1, round(SLICE / warm)))
    medians = {(type(contender), what, count): [] for contender, what, count in jobs}
    for index in range(rounds):
        for contender, what, count in jobs:
            time.sleep(PAUSE)
            result = contender.time(what, count, times[contender, what, count])
            medians[type(contender), what, count].append(statistics.median(result))
        print(f"{ready['parameters'] / 1e6:.1f} M parameters: round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    clearway.close()
    return medians, ready


def report(results, threads, rounds):
    peer, own = LeRobot, Clearway
    print(*machine(["lerobot", "diffusers"]), f"Median [least, greatest] of {rounds} rounds, batch 1.", sep="\n")
    print("\n| network | threads | what | LeRobot | Clearway | LeRobot / Clearway |\n|---|---|---|---|---|---|")
    for name, (medians, ready) in results.items():
        for count in threads:
            for what, title in (("pass", "one pass"), ("plan", f"plan, {ready['sampling']}")):
                theirs, ours = medians[peer, what, count], medians[own, what, count]
                cells = figure(theirs, " ms"), figure(ours, " ms"), ratio(theirs, ours)
                print(f"| {name} | {count} | {title} | {' | '.join(cells)} |")
    print("\n| network | threads | memory, 1 GiB | its weights | read in | LeRobot's pass / that | Clearway's pass / that |\n|---|---|---|---|---|---|---|")
    for name, (medians, ready) in results.items():
        size = 4 * ready["parameters"]
        for count in threads:
            floor = medians[own, "weights", count]
            memory = [2**30 / ms / 1e6 for ms in medians[own, "memory", count]]
            passes = [ratio(medians[side, "pass", count], floor) for side in (peer, own)]
            print(f"| {name} | {count} | {figure(memory, ' GB/s')} | {size / 1e6:.0f} MB | {figure(floor, ' ms')} | {' | '.join(passes)} |")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--policy", default=REPOSITORY / "models" / "pusht", help="the policy that ships [%(default)s]")
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    arguments.add_argument("--without-full-size", action="store_true", help="the shipped policy alone")
    arguments = arguments.parse_args()
    subprocess.run(["cargo", "build", *PACKAGE], cwd=REPOSITORY, check=True)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        policies = [("shipped", arguments.policy)]
        if not arguments.without_full_size:
            write_policy(folder)
            policies.append(("full size", folder))
        for name, path in policies:
            result = measure(path, arguments.threads, arguments.rounds)
            results[f"{name}, {result[1]['parameters'] / 1e6:.1f} M"] = result
    report(results, arguments.threads, arguments.rounds)


if __name__ == "__main__":
    main()
