"""One training step of the shipped policy's network in torch: forward, backward and AdamW, at batch 128.

Prints Markdown. `--beside "cargo bench --bench training --"` runs Clearway's step after every round, and adds the ratio.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import time

import contenders
import lerobot_diffusion as lerobot
import torch


def step(network, optimizer, batch):
    """A step as LeRobot trains, on noise of every level: what is predicted is the noise."""
    x, t, condition, noise = batch
    loss = torch.nn.functional.mse_loss(network(x, t, global_cond=condition), noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--policy", default=contenders.REPOSITORY / "models" / "pusht")
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--steps", type=int, default=10, help="of a round")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--beside", metavar="COMMAND")
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    policy = lerobot.DiffusionPolicy.from_pretrained(arguments.policy)
    config, network = policy.config, policy.diffusion.unet.train()
    values = sum(feature.shape[0] for feature in config.input_features.values())
    shape = (arguments.batch, config.horizon, config.action_feature.shape[0])
    condition = torch.randn(arguments.batch, config.n_obs_steps * values)
    timesteps = torch.randint(0, config.num_train_timesteps, (arguments.batch,))
    batch = (torch.randn(shape), timesteps, condition, torch.randn(shape))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    first = float(step(network, optimizer, batch).detach())
    theirs, ours = [], []
    for _ in range(arguments.rounds):
        times = []
        for _ in range(arguments.steps):
            begun = time.perf_counter()
            loss = step(network, optimizer, batch)
            times.append((time.perf_counter() - begun) * 1e3)
        theirs.append(statistics.median(times))
        if arguments.beside:
            time.sleep(contenders.PAUSE)
            command = [*shlex.split(arguments.beside), str(arguments.steps), str(arguments.batch)]
            environment = os.environ | {"RAYON_NUM_THREADS": str(arguments.threads)}
            printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            rows = (line.split() for line in printed.splitlines())
            ours.append(next(float(row[1]) for row in rows if row and row[0] == "step"))
    assert float(loss.detach()) < first, "the step does not train"
    print(*contenders.machine(["lerobot"]), sep="\n")
    print(f"Median [least, greatest] of {arguments.rounds} rounds, {arguments.threads} threads, batch {arguments.batch}.\n")
    print(f"torch, f32: {contenders.figure(theirs, ' ms')} a step.")
    if ours:
        print(f"Clearway, f32: {contenders.figure(ours, ' ms')} a step, {contenders.ratio(ours, theirs)} of torch's.")


if __name__ == "__main__":
    main()
