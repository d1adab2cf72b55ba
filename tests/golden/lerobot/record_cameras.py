"""Write LeRobot policies that see, with random weights, and what they compute: `cameras/`, 0.7 GB, not committed.

    pip install torch==2.11.0 torchvision==0.26.0 diffusers einops safetensors
    pip install --no-deps lerobot==0.4.4    # and what its imports still ask for
    python record_cameras.py [NAME ...]

With LeRobot 0.3.3 in place of 0.4.4 it adds `cameras/legacy`, whose statistics are buffers of the model.

Each folder is as `save_pretrained` writes it, with `expected.safetensors` beside: for two cases of `n_obs_steps`
observations the raw and normalized values, `global_cond`, `noise`, `unet_out.t{0,50,90}`, `sample_normalized` (DDIM-5
from that noise), `actions_normalized` and `actions`. `clearway policy check --policy cameras/NAME` replays one.
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
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from safetensors.torch import save_file

LEGACY = os.path.exists(os.path.join(root, "policies", "normalize.py"))
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cameras")

CASES = {
    "batch_norm_two_separate": dict(
        cameras=("observation.images.top", "observation.images.hand"),
        use_group_norm=False,
        use_separate_rgb_encoder_per_camera=True,
        crop_shape=(84, 76),
    ),
    # The file's order of the cameras is not the alphabet's.
    "two_shared": dict(cameras=("observation.images.wrist", "observation.images.front"), crop_shape=(64, 64)),
    "resnet34": dict(vision_backbone="resnet34", crop_shape=(84, 84)),
    # Statistics that are not those of its data let 16 blocks grow: without less contrast its softmax would be a maximum,
    # in which f32 says little.
    "resnet50": dict(vision_backbone="resnet50", crop_shape=(64, 64), use_group_norm=False, contrast=0.05),
    "resize_and_crop": dict(shape=(3, 120, 160), resize_shape=(81, 97), crop_ratio=0.9, use_group_norm=False),
    # A ratio of 1 means that `crop_shape` is not used.
    "resize_to_larger": dict(shape=(3, 48, 64), resize_shape=(96, 100), crop_ratio=1.0, crop_shape=(11, 12)),
    "no_crop": dict(shape=(3, 60, 108), crop_shape=None, spatial_softmax_num_keypoints=16),
    # Half a pixel on each side.
    "odd_crop": dict(shape=(3, 97, 99), crop_shape=(84, 84), spatial_softmax_num_keypoints=16),
    "environment_too": dict(environment=5, state=7, crop_shape=(60, 60), n_obs_steps=3),
    "quantiles": dict(visual="QUANTILES", crop_shape=(64, 64)),
    "min_max": dict(visual="MIN_MAX", crop_shape=(64, 64), n_obs_steps=1),
    "identity": dict(visual="IDENTITY", crop_shape=(64, 64)),
}


def shake(policy, generator, contrast):
    """Gives normalizations weights and statistics that matter, and keypoints that differ."""
    for name, part in policy.diffusion.named_modules():
        if isinstance(part, (torch.nn.GroupNorm, torch.nn.BatchNorm2d)):
            part.weight.copy_(1 + 0.3 * torch.randn(part.weight.shape, generator=generator))
            part.bias.copy_(0.3 * torch.randn(part.bias.shape, generator=generator))
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.copy_(0.2 * torch.randn(part.running_mean.shape, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=generator))
            part.num_batches_tracked.fill_(1234)
        if name.endswith("pool.nets"):
            part.weight.mul_(contrast)


@torch.no_grad()
def write(name, cameras=("observation.image",), shape=(3, 96, 96), environment=0, state=2, visual="MEAN_STD", contrast=6.0, seed=3, **config):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 100)
    random = lambda *size: torch.rand(*size, generator=generator)
    inputs = {camera: PolicyFeature(FeatureType.VISUAL, shape) for camera in cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (state,))
    if environment:
        inputs["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (environment,))
    modes = {"VISUAL": visual, "STATE": "MIN_MAX", "ENV": "MEAN_STD", "ACTION": "MIN_MAX"}
    config = DiffusionConfig(
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        normalization_mapping={kind: NormalizationMode(mode) for kind, mode in modes.items()},
        device="cpu",
        push_to_hub=False,
        horizon=16,
        n_action_steps=8,
        down_dims=(16, 32),
        noise_scheduler_type="DDIM",
        num_inference_steps=5,
        pretrained_backbone_weights=None,
        **config,
    )
    stats = {}
    for camera in cameras:
        ends = [0.1 * random(3, 1, 1), 0.8 + 0.2 * random(3, 1, 1)]
        spread = dict(mean=0.3 + 0.4 * random(3, 1, 1), std=0.1 + 0.3 * random(3, 1, 1))
        stats[camera] = spread | dict(zip(["min", "max"], ends)) | dict(zip(["q01", "q99"], ends))
    for feature, n in [("observation.state", state), ("observation.environment_state", environment), ("action", 2)]:
        if n:
            stats[feature] = dict(mean=random(n), std=1 + random(n), min=-random(n) - 1, max=2 + random(n))
    policy = DiffusionPolicy(config, stats) if LEGACY else DiffusionPolicy(config)
    policy.eval()
    shake(policy, generator, contrast)
    folder = os.path.join(OUT, name)
    policy.save_pretrained(folder)
    if LEGACY:
        normalize = lambda step: policy.normalize_inputs({key: value[None] for key, value in step.items()})
        unnormalize = lambda actions: policy.unnormalize_outputs({"action": actions})["action"]
    else:
        from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

        normalize, unnormalize = make_diffusion_pre_post_processors(config, dataset_stats=stats)
        normalize.save_pretrained(folder)
        unnormalize.save_pretrained(folder)

    model, steps, out = policy.diffusion, config.n_obs_steps, {}
    for k in range(2):
        raw = {}
        for camera in cameras:
            # Smooth shapes under some noise, of bytes.
            smooth = torch.nn.functional.interpolate(random(steps, 3, 5, 7), shape[1:], mode="bicubic")
            picture = (0.7 * smooth + 0.3 * random(steps, *shape)).clamp(0, 1)
            raw[camera] = (255 * picture).round() / 255
        for feature, n in [("observation.state", state), ("observation.environment_state", environment)]:
            if n:
                raw[feature] = 3 * random(steps, n) - 1
        normalized = [normalize({key: value[i] for key, value in raw.items()}) for i in range(steps)]
        batch = {key: torch.stack([step[key] for step in normalized], 1) for key in raw}
        for key in raw:
            out[f"case{k}.raw.{key}"], out[f"case{k}.normalized.{key}"] = raw[key], batch[key]
        batch["observation.images"] = torch.stack([batch[camera] for camera in cameras], dim=-4)
        condition = model._prepare_global_conditioning(batch)
        sample = torch.randn((1, 16, 2), generator=generator)
        network = lambda x, t: model.unet(x, torch.full((1,), t, dtype=torch.long), global_cond=condition)
        out[f"case{k}.global_cond"], out[f"case{k}.noise"] = condition, sample
        for t in (0, 50, 90):
            out[f"case{k}.unet_out.t{t}"] = network(sample, t)
        # What `conditional_sample` does; in 0.3.3 it takes no noise.
        model.noise_scheduler.set_timesteps(model.num_inference_steps)
        for t in model.noise_scheduler.timesteps:
            sample = model.noise_scheduler.step(network(sample, t), t, sample).prev_sample
        actions = sample[:, steps - 1 : steps - 1 + config.n_action_steps]
        out[f"case{k}.sample_normalized"], out[f"case{k}.actions_normalized"] = sample, actions
        out[f"case{k}.actions"] = unnormalize(actions.clone())
    out = {key: value.float().clone().contiguous() for key, value in out.items()}
    save_file(out, os.path.join(folder, "expected.safetensors"))
    print(name, flush=True)


if LEGACY:
    write("legacy", crop_shape=(84, 84))
else:
    for name in sys.argv[1:] or CASES:
        write(name, **CASES[name])
