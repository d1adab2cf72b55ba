"""A peer as a contender: python engine.py ENGINE KIND PATH CACHE INPUTS THREADS. See contenders.py for what it answers.

With `convert` for THREADS it writes the model as its engine reads it, and ends: what conversion takes of memory is not
the engine's.
"""

import json
import pathlib
import sys
import time

import numpy
from safetensors.numpy import load_file, save_file

# What the decoder's latents are multiplied by for the U-Net; Clearway's decoder begins with latents as the U-Net knows them.
SCALING = 0.18215

# `W8A8` is codes of eight bits for weights and activations, chosen by NNCF, and f32 or bf16 for what has no codes.
ENGINES = [
    "torch", "torch bf16", "torch.compile", "ONNX Runtime",
    "OpenVINO f32", "OpenVINO bf16", "OpenVINO W8A8", "OpenVINO W8A8 bf16",
]  # fmt: skip

# How many passes NNCF sees of each network before it chooses codes: ranges alone, and each pass is long for pictures.
CALIBRATION = {"policy": 16, "text": 4, "unet": 2, "decoder": 2}
# How many timesteps a network knows.
TIMESTEPS = {"policy": 100, "unet": 1000}


def packages(engines):
    """The packages whose versions are part of a result."""
    return ["onnxruntime", "openvino"] + (["nncf"] if any("W8A8" in engine for engine in engines) else [])


def inputs(kind, file):
    """The arrays that a network takes, in order."""
    values = load_file(file)
    if kind == "policy":
        return [values["x"], values["t"].astype(numpy.int64), values["condition"]]
    if kind == "text":
        return [values["tokens"].astype(numpy.int64)]
    if kind == "unet":
        return [values["x"], values["t"].astype(numpy.int64), values["text"]]
    return [values["z"] / numpy.float32(SCALING)]


def similar_inputs(kind, feed):
    """Inputs as they come in use: the same texts and conditions, other noise, and timesteps over the whole schedule."""
    generator = numpy.random.default_rng(2)
    count = CALIBRATION[kind]
    for index in range(count):
        if kind == "text":
            yield [generator.permuted(feed[0], axis=1)]
        else:
            # Noise has the deviation of the input.
            noise = generator.standard_normal(feed[0].shape).astype(numpy.float32) * feed[0].std()
            rest = list(feed[1:])
            if kind in TIMESTEPS:
                rest[0] = numpy.full_like(rest[0], (2 * index + 1) * TIMESTEPS[kind] // (2 * count))
            yield [noise, *rest]


def model(engine, kind, cache):
    """Where a converted model lies: policies come to OpenVINO through ONNX, which is the faster way for them."""
    if engine == "ONNX Runtime":
        return pathlib.Path(cache) / "onnx" / f"{kind}.onnx"
    if "W8A8" in engine:
        return pathlib.Path(cache) / "openvino" / f"{kind}-w8a8.xml"
    return pathlib.Path(cache) / "openvino" / f"{kind}.xml"


def convert(engine, kind, path, cache, feed):
    file = model(engine, kind, cache)
    if engine.startswith("torch") or file.exists():
        return
    import networks
    import torch

    tensors = tuple(torch.from_numpy(value) for value in feed)
    file.parent.mkdir(parents=True, exist_ok=True)
    if engine == "ONNX Runtime":
        names = [f"input{i}" for i in range(len(feed))]
        torch.onnx.export(
            networks.module(kind, path), tensors, str(file), input_names=names, output_names=["out"], dynamo=False,
            opset_version=17,
        )  # fmt: skip
        return
    import openvino

    if "W8A8" in engine:
        convert("OpenVINO f32", kind, path, cache, feed)
        openvino.save_model(quantized(kind, cache, feed), file, compress_to_fp16=False)
        return
    if kind == "policy":
        convert("ONNX Runtime", kind, path, cache, feed)
        converted = openvino.convert_model(model("ONNX Runtime", kind, cache))
    else:
        shapes = [value.shape for value in feed]
        converted = openvino.convert_model(networks.module(kind, path), example_input=tensors, input=shapes)
    openvino.save_model(converted, file, compress_to_fp16=False)


def quantized(kind, cache, feed):
    """What `nncf.quantize` makes of a network by default: symmetric codes, for weights by channel."""
    import nncf
    import openvino

    # Bias correction runs the network layer by layer, for pictures hours; it moves offsets, and takes no time in a pass.
    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=kind != "policy")
    return nncf.quantize(
        openvino.Core().read_model(model("OpenVINO f32", kind, cache)),
        nncf.Dataset(list(similar_inputs(kind, feed))),
        subset_size=CALIBRATION[kind],
        advanced_parameters=advanced,
    )


def with_torch(engine, kind, path, feed, threads):
    import networks
    import torch

    torch.set_num_threads(threads)
    network = networks.module(kind, path)
    tensors = [torch.from_numpy(value) for value in feed]
    if engine == "torch bf16":
        if kind == "policy":
            sys.exit("LeRobot's network embeds the time in f32 and cannot be converted to bf16")
        network = network.bfloat16()
        tensors = [value.bfloat16() if value.is_floating_point() else value for value in tensors]
    elif engine == "torch.compile":
        from torch._inductor import config

        config.freezing = True
        network = torch.compile(network)

    def run():
        with torch.inference_mode():
            return network(*tensors)

    return run, lambda out: out.float().numpy()


def prepare(engine, kind, path, cache, file, threads):
    """A pass as a function of nothing, and what makes an array of what it gives."""
    feed = inputs(kind, file)
    if engine.startswith("torch"):
        return with_torch(engine, kind, path, feed, threads)
    if engine == "ONNX Runtime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its threads spin on after a pass otherwise, beside whoever is next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(model(engine, kind, cache), options, providers=["CPUExecutionProvider"])
        named = dict(zip([given.name for given in session.get_inputs()], feed, strict=True))
        return lambda: session.run(None, named)[0], numpy.asarray
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads})
    precision = "bf16" if engine.endswith("bf16") else "f32"
    compiled = core.compile_model(
        core.read_model(model(engine, kind, cache)), "CPU", {"INFERENCE_PRECISION_HINT": precision}
    )
    return lambda: compiled(feed)[0], numpy.asarray


def peak_memory():
    """The most MB that this process had; what `getrusage` says counts what it was forked from."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))


def main():
    engine, kind, path, cache, file, threads = sys.argv[1:]
    if threads == "convert":
        convert(engine, kind, path, cache, inputs(kind, file))
        return
    # What libraries print is no answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    run, array = prepare(engine, kind, path, cache, file, int(threads))
    print(json.dumps({"threads": int(threads)}), file=answers, flush=True)
    for line in sys.stdin:
        word, _, argument = line.strip().partition(" ")
        answer = None
        if word == "time":
            answer = []
            for _ in range(int(argument)):
                begun = time.perf_counter()
                run()
                answer.append((time.perf_counter() - begun) * 1e3)
        elif word == "run":
            save_file({"out": numpy.ascontiguousarray(array(run()))}, argument)
        elif word == "memory":
            answer = peak_memory()
        else:
            sys.exit(f"`{word}` is no word that is known")
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
