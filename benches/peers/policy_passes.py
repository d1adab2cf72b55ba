"""One pass of a policy's network in Clearway and in each engine that a user could pick, alternating in one run.

Prints Markdown. A pass is x, a timestep and a condition to what is predicted, with nothing known before; `cached` is
Clearway's within a plan, where condition and timestep are known. Every contender has to give what torch gives.
"""

import argparse
import pathlib

import contenders
import engine
import networks

# ‖Δ‖/‖y‖ against torch in f32; bf16 rounds the weights of some forty layers by about a thousandth each, int8 weights and
# inputs by about a hundredth, int4 weights by about a tenth. NNCF rounds all layers, the first and the last too, and what
# it reads by the ranges of its calibration. The first name that a contender has in its own is its tolerance.
TOLERANCES = {"W8A8": 0.15, "f32": 1e-5, "bf16": 3e-2, "int8": 6e-2, "int4": 0.5}


def compare(title, path, cache, threads, arguments):
    cache.mkdir(parents=True, exist_ok=True)
    inputs = cache / "inputs.safetensors"
    networks.write_inputs("policy", path, inputs, batch=arguments.batch)
    # The first that needs a converted model writes it.
    peers = [contenders.engine(name, "policy", path, cache, inputs, threads) for name in arguments.engines]
    own = [
        contenders.clearway(arguments.binary, "policy", path, precision, inputs, threads)
        for precision in arguments.precisions
    ]
    everyone = peers + own
    errors = contenders.same_work(everyone, peers[0].name, cache, TOLERANCES)
    memory = contenders.memory(everyone)
    jobs = [(contender, "time") for contender in everyone]
    for contender in own:
        jobs += [(contender, "cached"), (contender, "weights")]
    medians = contenders.alternate(jobs, arguments.rounds, arguments.slice)
    also = [(contender.name, "cached", "a pass within a plan") for contender in own]
    also += [(contender.name, "weights", "reading as many bytes as the weights have") for contender in own]
    plural = "" if threads == 1 else "s"
    contenders.table(f"{title}, {threads} thread{plural}, batch {arguments.batch}", everyone, medians, errors, memory, also=also)
    for contender in everyone:
        contender.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("cache", type=pathlib.Path, help="a folder for weights and converted models, 4 GB; kept")
    arguments.add_argument("--policy", type=pathlib.Path, default=contenders.REPOSITORY / "models" / "pusht")
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--slice", type=float, default=contenders.SLICE, help="seconds of a contender in a round")
    arguments.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    arguments.add_argument("--batch", type=int, default=1)
    arguments.add_argument("--precisions", nargs="+", default=["f32", "bf16", "plain"])
    arguments.add_argument(
        "--engines", nargs="+", choices=engine.ENGINES,
        default=["torch", "torch.compile", "ONNX Runtime", "OpenVINO f32", "OpenVINO bf16"],
        help="the first is the reference",
    )  # fmt: skip
    arguments.add_argument("--without-full-size", action="store_true", help="the shipped policy alone")
    arguments = arguments.parse_args()
    arguments.cache = arguments.cache.resolve()
    arguments.binary = contenders.build("clearway_pass")
    policies = [("The policy that ships, 4.5 M parameters", arguments.policy, arguments.cache / "shipped")]
    if not arguments.without_full_size:
        folder = arguments.cache / "full_size"
        if not (folder / "model.safetensors").exists():
            networks.write_policy(folder)
        policies.append(("LeRobot's default network, 248.8 M parameters", folder, arguments.cache / "full_size_models"))
    print(*contenders.machine(["lerobot", *engine.packages(arguments.engines)]), sep="\n")
    print(f"Median [least, greatest] of {arguments.rounds} rounds.")
    for title, path, cache in policies:
        # A converted model has the size of its inputs.
        cache = cache if arguments.batch == 1 else cache / f"batch_{arguments.batch}"
        for threads in arguments.threads:
            compare(title, path.resolve(), cache, threads, arguments)


if __name__ == "__main__":
    main()
