"""The networks that are compared: their weights on disk, their inputs, and torch modules of them.

Weights are random where nothing is shipped; latency does not depend on what they are.
"""

import pathlib

import lerobot_diffusion as lerobot
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

# A side of a picture, over that of its latents.
FACTOR = 8
TOKENS = 77


def write_policy(folder, down_dims=(512, 1024, 2048)):
    """LeRobot's default network with random weights, as a LeRobot folder; DDIM-10 as the shipped policy."""
    torch.manual_seed(0)
    inputs = {
        "observation.state": lerobot.PolicyFeature(lerobot.FeatureType.STATE, (2,)),
        "observation.environment_state": lerobot.PolicyFeature(lerobot.FeatureType.ENV, (16,)),
    }
    outputs = {"action": lerobot.PolicyFeature(lerobot.FeatureType.ACTION, (2,))}
    config = lerobot.DiffusionConfig(
        input_features=inputs,
        output_features=outputs,
        noise_scheduler_type="DDIM",
        num_inference_steps=10,
        down_dims=tuple(down_dims),
        device="cpu",
        push_to_hub=False,
    )
    stats = {
        name: {"min": torch.zeros(feature.shape), "max": torch.full(feature.shape, 512.0)}
        for name, feature in {**inputs, **outputs}.items()
    }
    for part in (lerobot.DiffusionPolicy(config), *lerobot.make_diffusion_pre_post_processors(config, stats)):
        part.save_pretrained(folder)


def write_pictures(folder):
    """Stable Diffusion 1.5's three networks with random weights, as a folder of diffusers; 4.3 GB."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
    )
    for network, name in [(unet, "unet"), (vae, "vae"), (text, "text_encoder")]:
        network.save_pretrained(pathlib.Path(folder) / name)


def write_inputs(kind, path, file, size=512, batch=1):
    """The inputs of a pass, in the order in which the module takes them; f32, timesteps and tokens too."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    side = size // FACTOR
    if kind == "policy":
        config = lerobot.DiffusionPolicy.from_pretrained(path).config
        values = sum(feature.shape[0] for feature in config.input_features.values())
        x = draw(batch, config.horizon, config.action_feature.shape[0])
        condition = draw(batch, config.n_obs_steps * values)
        inputs = {"x": x, "t": torch.full((batch,), 5.0), "condition": condition}
    elif kind == "text":
        tokens = torch.randint(0, 49406, (1, TOKENS), generator=generator).float()
        tokens[:, 0], tokens[:, 20:] = 49406, 49407
        inputs = {"tokens": tokens}
    elif kind == "unet":
        inputs = {"x": draw(1, 4, side, side), "t": torch.tensor([500.0]), "text": draw(1, TOKENS, 768)}
    else:
        inputs = {"z": draw(1, 4, side, side)}
    save_file(inputs, file)


class Module(torch.nn.Module):
    """A network of one output."""

    def __init__(self, network, call):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs):
        return self.call(self.network, *inputs)


def module(kind, path):
    path = pathlib.Path(path)
    if kind == "policy":
        network = lerobot.DiffusionPolicy.from_pretrained(path).diffusion.unet
        call = lambda network, x, t, condition: network(x, t, global_cond=condition)  # noqa: E731
    elif kind == "text":
        network = CLIPTextModel.from_pretrained(path / "text_encoder")
        call = lambda network, tokens: network(tokens).last_hidden_state  # noqa: E731
    elif kind == "unet":
        network = UNet2DConditionModel.from_pretrained(path / "unet")
        call = lambda network, *x: network(*x, return_dict=False)[0]  # noqa: E731
    else:
        network = AutoencoderKL.from_pretrained(path / "vae")
        call = lambda network, z: network.decode(z, return_dict=False)[0]  # noqa: E731
    return Module(network.eval(), call)
