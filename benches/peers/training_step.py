"""One training step of a policy in LeRobot's PyTorch: the other side of `cargo bench --bench training`.

The shipped network, a batch of 128 with fixed numbers, forward, mean squared error, backward, AdamW. Prints the median
of the steps' milliseconds with the least and the greatest, in all and of each part.
"""

import argparse
import pathlib
import statistics
import time

import lerobot_diffusion as lerobot
import torch

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default=REPOSITORY / "models" / "pusht")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy = lerobot.DiffusionPolicy.from_pretrained(arguments.policy)
    unet, config = policy.diffusion.unet.train(), policy.config
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, betas=(0.95, 0.999), weight_decay=1e-6)
    generator = torch.Generator().manual_seed(0)
    sizes = [feature.shape[0] for feature in config.input_features.values()]
    action = (arguments.batch, config.horizon, config.action_feature.shape[0])
    x, noise = (torch.randn(action, generator=generator) for _ in range(2))
    condition = torch.randn((arguments.batch, config.n_obs_steps * sum(sizes)), generator=generator)
    t = torch.randint(0, config.num_train_timesteps, (arguments.batch,), generator=generator)

    rows = []
    for step in range(arguments.steps + 5):
        times = [time.perf_counter()]
        loss = torch.nn.functional.mse_loss(unet(x, t, global_cond=condition), noise)
        times.append(time.perf_counter())
        optimizer.zero_grad()
        loss.backward()
        times.append(time.perf_counter())
        optimizer.step()
        times.append(time.perf_counter())
        if step >= 5:
            rows.append([times[-1] - times[0], *(b - a for a, b in zip(times, times[1:]))])
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads, batch {arguments.batch}")
    for name, column in zip(["step", "forward", "backward", "update"], zip(*rows)):
        values = [1e3 * value for value in column]
        print(f"{name:9} {statistics.median(values):8.2f} ms [{min(values):.2f}, {max(values):.2f}]")


if __name__ == "__main__":
    main()
