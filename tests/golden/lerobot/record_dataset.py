"""Write two small datasets and the windows that LeRobot's own loader makes of them: `dataset_v30/`, `dataset_v21/` and
`windows.safetensors`.

    pip install lerobot==0.4.4 torch==2.11.0
    python record_dataset.py

`dataset_v30/` is written by LeRobot; `dataset_v21/` has the same rows in the layout of version 2.1, which LeRobot 0.4
converts and does not write. `broken/` holds tables in place of the first, each with one row that is wrong.
"""

import json
import os
import shutil
import sys
import types
import importlib.util

os.environ.setdefault("HF_HUB_OFFLINE", "1")
root = list(importlib.util.find_spec("lerobot").submodule_search_locations)[0]
policies = types.ModuleType("lerobot.policies")
policies.__path__ = [os.path.join(root, "policies")]
sys.modules["lerobot.policies"] = policies

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.sampler import EpisodeAwareSampler
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTHS = [5, 12, 9, 1]
PAST, HORIZON, DROPPED = 3, 8, 4
FPS = 10
FEATURES = {
    "observation.state": 2,
    "observation.environment_state": 3,
    "action": 2,
}


def record():
    folder = os.path.join(HERE, "dataset_v30")
    shutil.rmtree(folder, ignore_errors=True)
    features = {
        name: {"dtype": "float32", "shape": (size,), "names": [f"{name}_{i}" for i in range(size)]}
        for name, size in FEATURES.items()
    }
    dataset = LeRobotDataset.create("clearway/small", FPS, features, root=folder, use_videos=False)
    generator = np.random.default_rng(7)
    for length in LENGTHS:
        for _ in range(length):
            frame = {name: generator.normal(size=size).astype(np.float32) * 10 for name, size in FEATURES.items()}
            dataset.add_frame({**frame, "task": "wander"})
        dataset.save_episode()
    dataset.finalize()
    for path in ("images", ".cache"):
        shutil.rmtree(os.path.join(folder, path), ignore_errors=True)
    return folder


def windows(folder):
    deltas = {
        "observation.state": [i / FPS for i in range(1 - PAST, 1)],
        "observation.environment_state": [i / FPS for i in range(1 - PAST, 1)],
        "action": [i / FPS for i in range(1 - PAST, 1 - PAST + HORIZON)],
    }
    dataset = LeRobotDataset("clearway/small", root=folder, delta_timestamps=deltas)
    sampler = EpisodeAwareSampler(
        dataset.meta.episodes["dataset_from_index"],
        dataset.meta.episodes["dataset_to_index"],
        drop_n_last_frames=DROPPED,
    )
    items = [dataset[i] for i in range(len(dataset))]
    out = {name: torch.stack([item[name] for item in items]).float().contiguous() for name in FEATURES}
    for name in ("observation.state", "action"):
        out[f"{name}_is_pad"] = torch.stack([item[f"{name}_is_pad"] for item in items]).float().contiguous()
    out["frames"] = torch.tensor(list(sampler), dtype=torch.int64)
    for name in FEATURES:
        for statistic in ("min", "max", "mean", "std"):
            out[f"{name}.{statistic}"] = torch.as_tensor(dataset.meta.stats[name][statistic]).double().contiguous()
    save_file(out, os.path.join(HERE, "windows.safetensors"))


def older(folder):
    """The layout of version 2.1: a table an episode, lists of episodes and statistics in JSON lines."""
    out = os.path.join(HERE, "dataset_v21")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(os.path.join(out, "meta"))
    os.makedirs(os.path.join(out, "data", "chunk-000"))
    table = pq.read_table(os.path.join(folder, "data/chunk-000/file-000.parquet"))
    with open(os.path.join(folder, "meta/info.json")) as file:
        info = json.load(file)
    info["codebase_version"] = "v2.1"
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    for key in ("data_files_size_in_mb", "video_files_size_in_mb"):
        info.pop(key, None)
    info["total_chunks"] = 1
    info["total_videos"] = 0
    with open(os.path.join(out, "meta/info.json"), "w") as file:
        json.dump(info, file, indent=4)
    with open(os.path.join(out, "meta/episodes.jsonl"), "w") as file:
        for episode, length in enumerate(LENGTHS):
            file.write(json.dumps({"episode_index": episode, "tasks": ["wander"], "length": length}) + "\n")
    with open(os.path.join(out, "meta/tasks.jsonl"), "w") as file:
        file.write(json.dumps({"task_index": 0, "task": "wander"}) + "\n")
    start = 0
    for episode, length in enumerate(LENGTHS):
        path = os.path.join(out, f"data/chunk-000/episode_{episode:06d}.parquet")
        pq.write_table(table.slice(start, length), path)
        start += length


def broken(folder):
    out = os.path.join(HERE, "broken")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    table = pq.read_table(os.path.join(folder, "data/chunk-000/file-000.parquet"))
    names = table.column_names

    def write(name, column, values, kind=None):
        index = names.index(column)
        array = pa.array(values, type=kind or pa.list_(pa.float32()))
        pq.write_table(table.set_column(index, column, array), os.path.join(out, f"{name}.parquet"))

    actions = table["action"].to_pylist()
    write("nan", "action", [*actions[:11], [1.0, float("nan")], *actions[12:]])
    write("null", "action", [*actions[:11], None, *actions[12:]])
    write("gap", "action", [*actions[:11], [None, 2.0], *actions[12:]])
    write("short", "action", [*actions[:11], [1.0], *actions[12:]])
    write("text", "action", ["x"] * len(actions), pa.string())
    frames = table["frame_index"].to_pylist()
    write("frame", "frame_index", [*frames[:11], 99, *frames[12:]], pa.int64())
    pq.write_table(table.slice(0, len(actions) - 1), os.path.join(out, "rows.parquet"))
    pq.write_table(table.drop_columns(["action"]), os.path.join(out, "column.parquet"))


folder = record()
windows(folder)
older(folder)
broken(folder)
