"""Train a small policy on `dataset_v30/` with LeRobot's network, loader, processors and loss, and record the run:
`run.safetensors`.

    pip install lerobot==0.4.4 torch==2.11.0 diffusers==0.42.1
    python record_run.py

`before.{key}` and `after.{key}` are the network's weights at first and, averaged, at last; of each step there are the
frames, the timesteps, the noise, the loss, the learning rate and the norm of the gradients before they are clipped.
`plain` is the first loss without LeRobot's mask. The optimizer is PyTorch's AdamW, the rates and the average are diffusers'.
"""

import importlib.util
import os
import sys
import types

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# `lerobot.policies` imports every policy with its dependencies; an empty package in its place imports none.
root = list(importlib.util.find_spec("lerobot").submodule_search_locations)[0]
policies = types.ModuleType("lerobot.policies")
policies.__path__ = [os.path.join(root, "policies")]
sys.modules["lerobot.policies"] = policies

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from safetensors.torch import save_file
from torch.utils.data import default_collate

HERE = os.path.dirname(os.path.abspath(__file__))
FPS = 10
# Of episodes of 5, 12, 9 and 1 frames: first ones, last ones, and others.
FRAMES = [
    [0, 4, 10, 16, 20, 26],
    [1, 3, 5, 15, 25, 26],
    [2, 6, 7, 8, 17, 19],
    [9, 11, 12, 13, 14, 18],
    [21, 22, 23, 24, 25, 0],
    [16, 4, 26, 17, 5, 10],
]
STEPS, WARM_UP, RATE, CLIP = 8, 2, 2e-3, 0.5


def main():
    torch.manual_seed(3)
    torch.set_num_threads(1)
    config = DiffusionConfig(
        n_obs_steps=2,
        horizon=8,
        n_action_steps=4,
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (3,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        normalization_mapping={
            "STATE": NormalizationMode.MIN_MAX,
            "ENV": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MIN_MAX,
        },
        down_dims=(8, 16),
        n_groups=4,
        diffusion_step_embed_dim=16,
        num_train_timesteps=20,
        do_mask_loss_for_padding=True,
        device="cpu",
    )
    past = [i / FPS for i in config.observation_delta_indices]
    deltas = {name: past for name in config.input_features}
    deltas["action"] = [i / FPS for i in config.action_delta_indices]
    dataset = LeRobotDataset(
        "clearway/small", root=os.path.join(HERE, "dataset_v30"), delta_timestamps=deltas
    )
    pre, _ = make_diffusion_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    model = DiffusionModel(config)
    # A fresh normalization is the identity; it should matter.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    out = {f"before.{key}": value.clone() for key, value in model.unet.state_dict().items()}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.95, 0.999), eps=1e-6, weight_decay=0.1
    )
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=WARM_UP, num_training_steps=STEPS)
    average = EMAModel(
        model.parameters(), decay=0.5, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    rows = {name: [] for name in ("frames", "timesteps", "noise", "loss", "rate", "norm")}
    for step, frames in enumerate(FRAMES):
        batch = pre(default_collate([dataset[frame] for frame in frames]))
        # What the loss draws, in its order.
        torch.manual_seed(100 + step)
        noise = torch.randn(batch["action"].shape)
        timesteps = torch.randint(0, config.num_train_timesteps, (len(frames),))
        torch.manual_seed(100 + step)
        loss = model.compute_loss(batch)
        if step == 0:
            torch.manual_seed(100)
            config.do_mask_loss_for_padding = False
            out["plain"] = model.compute_loss(batch).detach().reshape(1)
            config.do_mask_loss_for_padding = True
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        rows["rate"].append(torch.tensor(optimizer.param_groups[0]["lr"], dtype=torch.float64))
        optimizer.step()
        rates.step()
        average.step(model.parameters())
        rows["frames"].append(torch.tensor(frames))
        rows["timesteps"].append(timesteps)
        rows["noise"].append(noise)
        rows["loss"].append(loss.detach())
        rows["norm"].append(norm.detach())
        print(step, loss.item(), norm.item(), optimizer.param_groups[0]["lr"])
    out |= {name: torch.stack(values).contiguous() for name, values in rows.items()}
    average.copy_to(model.parameters())
    out |= {f"after.{key}": value.clone() for key, value in model.unet.state_dict().items()}
    save_file(out, os.path.join(HERE, "run.safetensors"))


main()
