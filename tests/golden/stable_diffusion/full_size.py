"""Networks of Stable Diffusion 1.5's full size with random weights, and what torch computes with them: 4.3 GB.

python tests/golden/stable_diffusion/full_size.py FOLDER, then
CLEARWAY_FULL_SIZE=FOLDER cargo test --release --test stable_diffusion_matches -- --ignored --nocapture

Needs diffusers 0.42.1, transformers 5.23, torch 2.11. Prints how long torch takes.
"""

import argparse
import gc
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("folder", type=Path)
folder = arguments.parse_args().folder
torch.set_grad_enabled(False)
torch.manual_seed(0)
expected = {}


def disturb(network):
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def timed(name, call):
    start = time.perf_counter()
    out = call()
    print(f"torch {name:14} {1000 * (time.perf_counter() - start):8.0f} ms", flush=True)
    return out


text_encoder = CLIPTextModel(
    CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
)
disturb(text_encoder).save_pretrained(folder / "text_encoder")
tokens = torch.randint(0, 49406, (2, 77))
tokens[:, 0], tokens[:, 20:] = 49406, 49407
text = timed("text encoder", lambda: text_encoder(tokens).last_hidden_state)
expected |= {"tokens": tokens.to(torch.int32), "text": text}
del text_encoder

vae = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
)
disturb(vae).save_pretrained(folder / "vae")
z, picture = torch.randn(1, 4, 64, 64), torch.rand(1, 3, 256, 256) * 2 - 1
decoded = timed("decoder", lambda: vae.decode(z).sample)
mean = timed("encoder, 256", lambda: vae.encode(picture).latent_dist.mean)
expected |= {"z": z, "decoded": decoded, "picture": picture, "mean": mean}
del vae
gc.collect()

unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
disturb(unet).save_pretrained(folder / "unet")
x = torch.randn(1, 4, 64, 64)
out = timed("U-Net", lambda: unet(x, torch.tensor([500]), text[:1]).sample)
expected |= {"x": x, "out": out}
save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
