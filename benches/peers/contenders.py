"""Contenders that take turns: each a process that answers lines, so that its threads and its memory are its own.

A contender prints an object when it is ready, and then answers each line on its standard input with one of JSON:
`time N` with the milliseconds of N passes, `run FILE` after writing what a pass gives, `memory` with the most MB that it
had. `clearway_pass.rs` is one, `engine.py` the others.
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

import torch
from safetensors.torch import load_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# What a contender is given in a round, in seconds; at least one call.
SLICE = 0.5
# Threads of one contender that still spin must not be in the way of the next.
PAUSE = 0.1

LOAD = os.getloadavg()[0]


class Contender:
    """A process that sleeps while it is not asked."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=REPOSITORY,
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended; what it said is above")
        return json.loads(line)

    def ask(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build(binary):
    """Built as the README builds everything else, so that nothing is built twice."""
    command = ["cargo", "build", "--release", "--quiet", "--workspace", "--bin", binary, "--message-format=json"]
    built = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.splitlines()
    artifacts = [json.loads(line) for line in built if line.startswith("{")]
    paths = [made["executable"] for made in artifacts if made.get("executable") and made["target"]["name"] == binary]
    return paths[-1]


def clearway(binary, what, path, precision, inputs, threads):
    environment = {"RAYON_NUM_THREADS": str(threads)}
    return Contender(f"Clearway {precision}", [binary, what, path, precision, inputs], environment)


def engine(name, what, path, cache, inputs, threads):
    program = pathlib.Path(__file__).with_name("engine.py")
    command = [str(part) for part in (sys.executable, program, name, what, path, cache, inputs)]
    subprocess.run([*command, "convert"], check=True, stdout=sys.stderr)
    return Contender(name, [*command, threads], {"OMP_NUM_THREADS": str(threads)})


def same_work(contenders, reference, folder, tolerances):
    """The relative error of what each contender gives, against the reference; stops where one is too large."""
    outputs = {}
    for contender in contenders:
        file = pathlib.Path(folder) / "out.safetensors"
        contender.ask(f"run {file}")
        outputs[contender.name] = load_file(file)["out"].double()
        file.unlink()
    expected = outputs[reference]
    assert expected.isfinite().all() and expected.std() > 0, f"{reference} gives nothing"
    errors = {}
    for name, output in outputs.items():
        assert output.shape == expected.shape, f"{name}: {tuple(output.shape)}, not {tuple(expected.shape)}"
        errors[name] = float((output - expected).norm() / expected.norm())
        tolerance = tolerances["bf16" if "bf16" in name else "f32"]
        assert errors[name] <= tolerance, f"{name} is off by {errors[name]:.1e}: it does not do the same work"
    return errors


def alternate(jobs, rounds, slice_seconds=SLICE):
    """The medians of each round, by job: `(contender, word)`, each timed once a round."""
    times = {}
    for contender, word in jobs:
        warm = [contender.ask(f"{word} 1") for _ in range(2)][-1][0] / 1e3
        times[contender, word] = min(100, max(1, round(slice_seconds / warm)))
    medians = {(contender.name, word): [] for contender, word in jobs}
    for index in range(rounds):
        for contender, word in jobs:
            time.sleep(PAUSE)
            medians[contender.name, word].append(statistics.median(contender.ask(f"{word} {times[contender, word]}")))
        print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    return medians


def figure(values, unit="", digits=3):
    """Median [least, greatest]."""

    def rounded(value):
        whole = len(str(int(value)))
        return f"{value:.{max(0, digits - whole)}f}"

    return f"{rounded(statistics.median(values))}{unit} [{rounded(min(values))}, {rounded(max(values))}]"


def ratio(over, under):
    """Taken within each round before its median is."""
    return figure([a / b for a, b in zip(over, under, strict=True)])


def said(*command):
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def machine(packages):
    """What the figures were taken on, in lines."""
    processor = dict(line.split(":", 1) for line in said("lscpu").splitlines() if ":" in line)
    name, level2, level3 = (processor.get(key, "unknown").strip() for key in ("Model name", "L2 cache", "L3 cache"))
    peers = ", ".join(f"{package} {version(package)}" for package in packages)
    return [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC; {name}, {os.cpu_count()} cores, L2 {level2}, L3 {level3}; {platform.system()} {platform.release()}.",
        f"Load before the run: {LOAD:.2f}.",
        f"Clearway {said('git', 'describe', '--always', '--dirty')}, {' '.join(said('rustc', '--version').split()[:2])}; PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), {peers}, Python {platform.python_version()}.",
    ]


def memory(contenders):
    """The most memory that each had; to be asked before anything is read for the floor."""
    return {contender.name: contender.ask("memory") for contender in contenders}


def table(title, contenders, medians, errors, memory, word="time", also=()):
    """A row a contender: its time, the ratio of its time to each of Clearway's, its error and its memory."""
    own = [contender.name for contender in contenders if contender.name.startswith("Clearway")]
    heads = [f"this / {name}" for name in own]
    print(f"\n{title}\n\n| | one pass | {' | '.join(heads)} | off by | memory |\n|---|---|{'---|' * len(own)}---|---|")
    for contender in contenders:
        row = medians[contender.name, word]
        ratios = ["" if name == contender.name else ratio(row, medians[name, word]) for name in own]
        error, megabytes = errors[contender.name], memory[contender.name]
        print(f"| {contender.name} | {figure(row, ' ms')} | {' | '.join(ratios)} | {error:.0e} | {megabytes} MB |")
    for name, other, label in also:
        print(f"\n{name}, {label}: {figure(medians[name, other], ' ms')}.")
