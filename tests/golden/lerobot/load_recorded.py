"""Looks whether LeRobot reads a dataset that `clearway sim demonstrate` wrote as Clearway reads it.

    clearway sim demonstrate --policy models/pusht --episodes 4 --candidates 4 --out demonstrations
    python load_recorded.py demonstrations

LeRobot 0.4.4.
"""

import argparse
import json
import pathlib

import numpy
import pyarrow.parquet as parquet
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    folder = arguments.parse_args().folder.resolve()
    info = json.loads((folder / "meta" / "info.json").read_text())
    # Two observations and sixteen actions, as a diffusion policy is trained on them.
    steps = {"observation.state": [-0.1, 0.0], "action": [step / info["fps"] for step in range(-1, 15)]}
    dataset = LeRobotDataset("clearway/recorded", root=folder, delta_timestamps=steps)
    assert len(dataset) == info["total_frames"] and dataset.num_episodes == info["total_episodes"]
    table = parquet.read_table(folder / "data" / "chunk-000" / "file-000.parquet")
    actions = numpy.array(table["action"].to_pylist())
    episodes = numpy.array(table["episode_index"])
    for index in range(0, len(dataset), max(1, len(dataset) // 50)):
        frame = dataset[index]
        inside = numpy.array([0 <= index + step < len(dataset) for step in range(-1, 15)])
        inside[inside] &= episodes[numpy.arange(index - 1, index + 15)[inside]] == episodes[index]
        assert (~frame["action_is_pad"].numpy() == inside).all()
        expected = actions[numpy.arange(index - 1, index + 15)[inside]]
        numpy.testing.assert_allclose(frame["action"].numpy()[inside], expected, rtol=1e-6)
    for name in ["min", "max", "mean", "std"]:
        of_numpy = getattr(actions, name)(axis=0)
        numpy.testing.assert_allclose(dataset.meta.stats["action"][name], of_numpy, rtol=1e-5)
    print(f"{dataset.num_episodes} episodes, {len(dataset)} frames: {dataset[0]['task']}")


if __name__ == "__main__":
    main()
