"""The three networks of Stable Diffusion 1.5 in Clearway and in each engine that a user could pick, alternating in one run.

Prints Markdown: encoding a text of 77 tokens, one pass of the U-Net, decoding one picture, and the most memory that each
contender had. Weights are random. Every contender has to give what torch gives.
"""

import argparse
import pathlib

import contenders
import engine
import networks

# ‖Δ‖/‖y‖ against torch in f32: the networks are deep, and the middle of the decoder has attention over all pixels. Codes of
# eight bits are wrong by about a hundredth in each of some hundred layers; NNCF rounds all of them, by the ranges of its
# calibration. The first name that a contender has in its own is its tolerance.
TOLERANCES = {"W8A8": 0.25, "int8": 0.2, "f32": 1e-4, "bf16": 5e-2}
TITLES = {"text": "Encoding a text", "unet": "One pass of the U-Net", "decoder": "Decoding one picture"}


def compare(kind, arguments):
    inputs = arguments.cache / f"{kind}-{arguments.size}.safetensors"
    networks.write_inputs(kind, arguments.cache, inputs, arguments.size)
    # A converted model has the size of its inputs.
    converted = arguments.cache / f"models-{arguments.size}"
    peers = [
        contenders.engine(name, kind, arguments.cache, converted, inputs, arguments.threads) for name in arguments.engines
    ]
    own = [
        contenders.clearway(arguments.binary, kind, arguments.cache, precision, inputs, arguments.threads)
        for precision in arguments.precisions
    ]
    everyone = peers + own
    errors = contenders.same_work(everyone, peers[0].name, arguments.cache, TOLERANCES)
    medians = contenders.alternate([(contender, "time") for contender in everyone], arguments.rounds)
    title = f"{TITLES[kind]}, {arguments.size} x {arguments.size}, {arguments.threads} threads"
    contenders.table(title, everyone, medians, errors, contenders.memory(everyone))
    for contender in everyone:
        contender.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("cache", type=pathlib.Path, help="a folder for weights and converted models, 9 GB; kept")
    arguments.add_argument("--kinds", nargs="+", choices=list(TITLES), default=list(TITLES))
    arguments.add_argument("--size", type=int, default=512, help="a side of the picture, in pixels")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--precisions", nargs="+", default=["f32", "bf16"])
    arguments.add_argument(
        "--engines", nargs="+", choices=engine.ENGINES, default=["torch", "OpenVINO f32", "OpenVINO bf16"],
        help="the first is the reference; all are in memory at once",
    )  # fmt: skip
    arguments = arguments.parse_args()
    arguments.cache = arguments.cache.resolve()
    arguments.binary = contenders.build("clearway_pass")
    if not (arguments.cache / "text_encoder").exists():
        networks.write_pictures(arguments.cache)
    print(*contenders.machine(["diffusers", "transformers", *engine.packages(arguments.engines)]), sep="\n")
    print(f"Median [least, greatest] of {arguments.rounds} rounds, batch 1.")
    for kind in arguments.kinds:
        compare(kind, arguments)


if __name__ == "__main__":
    main()
