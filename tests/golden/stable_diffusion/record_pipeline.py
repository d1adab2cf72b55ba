"""Whole pipelines of tiny random networks, with the pictures that diffusers 0.42.1 makes of prompts with them.

python tests/golden/stable_diffusion/record_pipeline.py, with diffusers 0.42.1, transformers 5.23, peft 0.21.2,
torch 2.11, safetensors.

The tokenizer is CLIP's, of the merges that Clearway ships, so that the text encoder knows all of its tokens.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    TCDScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).parent
OUT = HERE / "pipeline"
MERGES = HERE / "../../../crates/stable-diffusion/src/tokenizer/merges.txt"
torch.set_grad_enabled(False)
torch.manual_seed(0)
expected = {}
# What was added later, in a file of its own.
more = {}


def disturb(network):
    """Norms start at one and zero: noise shows what is swapped or forgotten. All numbers are those of half precision."""
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return network.half().float().eval()


def save(network, folder, **options):
    shutil.rmtree(folder, ignore_errors=True)
    network.half().save_pretrained(folder, **options)
    network.float()


def tokenizer():
    """OpenAI's: bytes, bytes that end a word, the merges, and two special tokens."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in visible]
    extra = 0
    order = list(visible)
    for b in range(256):
        if b not in order:
            order.append(b)
            symbols.append(chr(256 + extra))
            extra += 1
    merges = [tuple(line.split()) for line in MERGES.read_text().splitlines() if line and not line.startswith("#version")]
    vocab = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    assert len(vocab) == 49408, len(vocab)
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "model_max_length": 77, "pad_token": "<|endoftext|>", "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer",
    }))  # fmt: skip
    found = CLIPTokenizer.from_pretrained(folder)
    ids = found("A photograph of an astronaut riding a horse").input_ids
    assert ids == [49406, 320, 8853, 539, 550, 18376, 6765, 320, 4558, 49407], ids
    return found


def unet(**options):
    config = dict(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return disturb(UNet2DConditionModel(**(config | options)))


text_encoder = disturb(CLIPTextModel(CLIPTextConfig(
    vocab_size=49408, hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
    max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407,
)))  # fmt: skip
# Embeddings as they are drawn are too small to matter.
text_encoder.get_input_embeddings().weight.mul_(30)
text_encoder.half().float()
# Where diffusers looks for the final norm; transformers has it in the model itself since version 5.
text_encoder.__dict__["text_model"] = text_encoder
vae = disturb(AutoencoderKL(
    block_out_channels=(4, 4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4, sample_size=64,
))  # fmt: skip
networks = {"plain": unet(), "inpaint": unet(in_channels=9), "guided": unet(time_cond_proj_dim=16)}
scheduler = PNDMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False,
    skip_prk_steps=True, steps_offset=1,
)  # fmt: skip
shutil.rmtree(OUT, ignore_errors=True)
save(text_encoder, OUT / "text_encoder", variant="fp16")
save(vae, OUT / "vae", variant="fp16")
save(networks["plain"], OUT / "unet", variant="fp16")
save(networks["inpaint"], OUT / "inpaint", variant="fp16")
save(networks["guided"], OUT / "guided", variant="fp16")
scheduler.save_pretrained(OUT / "scheduler")
# As the published model has it.
said = json.loads((OUT / "scheduler/scheduler_config.json").read_text())
said["clip_sample"] = False
for name in ["timestep_spacing", "prediction_type"]:
    said.pop(name)
(OUT / "scheduler/scheduler_config.json").write_text(json.dumps(said, indent=2) + "\n")
SCHEDULER = said
TOKENIZER = tokenizer()


def pipeline(kind, network="plain", scheduler_class=PNDMScheduler, controlnet=None, **options):
    parts = dict(
        vae=vae, text_encoder=text_encoder, tokenizer=TOKENIZER, unet=networks[network],
        scheduler=scheduler_class.from_config(SCHEDULER | options), safety_checker=None, feature_extractor=None,
    )  # fmt: skip
    if kind is not LatentConsistencyModelPipeline:
        parts["image_encoder"] = None
    if controlnet is not None:
        parts["controlnet"] = controlnet
    made = kind(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def record(name, pipe, seeds=(7,), into=expected, **request):
    def run(output_type):
        generator = [torch.Generator().manual_seed(seed) for seed in seeds]
        generator = generator if len(seeds) > 1 else generator[0]
        count = {"num_images_per_prompt": len(seeds)}
        return pipe(**request, **count, generator=generator, output_type=output_type).images

    latents = run("latent")
    image = vae.decode(latents / vae.config.scaling_factor).sample
    # What the pipeline itself says of it, in place of a picture that is cut off at black and white.
    shown = torch.tensor(run("np")).permute(0, 3, 1, 2)
    assert torch.allclose((image / 2 + 0.5).clamp(0, 1), shown, atol=1e-5), name
    assert image.isfinite().all() and image.std() > 0.05, (name, image.std())
    into[f"{name}.latents"] = latents.contiguous().clone()
    into[f"{name}.image"] = image.contiguous().clone()
    print(f"{name:20} {tuple(image.shape)} largest {image.abs().max():.2f} deviation {image.std():.3f}")


PROMPT = {"prompt": "A red fox in the snow, detailed", "negative_prompt": "blurry, café"}
DDIM = dict(scheduler_class=DDIMScheduler)
text = StableDiffusionPipeline
record("pndm", pipeline(text), **PROMPT, num_inference_steps=6)
record("ddim", pipeline(text, **DDIM), **PROMPT, num_inference_steps=4, guidance_scale=5.0)
# Without guidance: diffusers leaves out no layer of the negative prompt's encoding.
record("clip-skip", pipeline(text, **DDIM), **PROMPT, num_inference_steps=4, guidance_scale=1.0, clip_skip=1)
record("rescale", pipeline(text, **DDIM), **PROMPT, num_inference_steps=4, guidance_rescale=0.7)
record("batch", pipeline(text, **DDIM), seeds=(1, 2), **PROMPT, num_inference_steps=3, height=64, width=48)
record("plain", pipeline(text, **DDIM), prompt="a cat", num_inference_steps=3, guidance_scale=1.0)
for name, kind, options in [
    ("euler", EulerDiscreteScheduler, {}),
    ("euler-trailing", EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
    ("euler-karras", EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    ("euler-a", EulerAncestralDiscreteScheduler, {}),
    ("heun", HeunDiscreteScheduler, {}),
    ("dpmpp2m", DPMSolverMultistepScheduler, {}),
    ("dpmpp2m-karras", DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    ("dpmpp2m-sde", DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    ("lcm", LCMScheduler, {}),
    ("tcd", TCDScheduler, {}),
]:
    pipe = pipeline(text, scheduler_class=kind, **options)
    eta = {"eta": 0.3} if kind is TCDScheduler else {}
    record(name, pipe, **PROMPT, **eta, num_inference_steps=4, guidance_scale=3.0)

for name, kind, options in [
    ("unipc", UniPCMultistepScheduler, {}),
    ("unipc-karras", UniPCMultistepScheduler, {"use_karras_sigmas": True}),
    ("deis", DEISMultistepScheduler, {}),
    ("lms", LMSDiscreteScheduler, {}),
]:
    pipe = pipeline(text, scheduler_class=kind, **options)
    record(name, pipe, into=more, **PROMPT, num_inference_steps=5, guidance_scale=3.0)

# Stable Diffusion 2's way: it predicts velocities, and has a leading grid.
velocity = dict(scheduler_class=EulerDiscreteScheduler, prediction_type="v_prediction", timestep_spacing="leading")
record("velocity", pipeline(text, **velocity), **PROMPT, num_inference_steps=5)
# Zero terminal SNR.
zero = dict(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)
record("zero-snr", pipeline(text, **DDIM, **zero), **PROMPT, num_inference_steps=4, guidance_rescale=0.7)
# A network that knows the guidance scale.
record(
    "guided", pipeline(LatentConsistencyModelPipeline, "guided", LCMScheduler), prompt=PROMPT["prompt"],
    num_inference_steps=4, guidance_scale=8.5,
)  # fmt: skip

# A picture to begin with, and a mask.
rng = np.random.default_rng(3)
small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
source = Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)
mask = np.zeros((64, 64, 3), dtype=np.uint8)
mask[10:45, 20:60] = 255
mask[50:60, 4:20] = (200, 130, 90)
mask = Image.fromarray(mask)
source.save(OUT / "source.png")
mask.save(OUT / "mask.png")
image = StableDiffusionImg2ImgPipeline
record("img2img", pipeline(image, **DDIM), **PROMPT, image=source, strength=0.6, num_inference_steps=6)
record(
    "img2img-euler", pipeline(image, scheduler_class=EulerDiscreteScheduler), **PROMPT, image=source, strength=0.5,
    num_inference_steps=6,
)  # fmt: skip
inpaint = StableDiffusionInpaintPipeline
for name, strength in [("inpaint", 1.0), ("inpaint-half", 0.5)]:
    record(
        name, pipeline(inpaint, "inpaint", **DDIM), **PROMPT, image=source, mask_image=mask, strength=strength,
        num_inference_steps=4, height=64, width=64,
    )  # fmt: skip

# One by one: given several generators, diffusers draws what is left of the picture from the first for all.
for name, strength in [("inpaint-seed", 1.0), ("inpaint-half-seed", 0.5)]:
    for seed in [1, 2]:
        record(
            f"{name}{seed}", pipeline(inpaint, "inpaint", **DDIM), seeds=(seed,), into=more, **PROMPT, image=source,
            mask_image=mask, strength=strength, num_inference_steps=4, height=64, width=64,
        )  # fmt: skip

# A picture to follow.
controlnet = ControlNetModel.from_unet(networks["plain"], conditioning_embedding_out_channels=(4, 4, 8, 8))
for parameter in controlnet.parameters():
    if parameter.abs().max() == 0:
        parameter += 0.2 * torch.randn_like(parameter)
disturb(controlnet)
save(controlnet, OUT / "controlnet", variant="fp16")
follow = pipeline(StableDiffusionControlNetPipeline, controlnet=controlnet, **DDIM)
record("controlnet", follow, **PROMPT, image=source, controlnet_conditioning_scale=0.8, num_inference_steps=4)

# Low-rank updates: of linear layers and convolutions, of both networks, under peft's names and kohya's.
torch.manual_seed(5)
target = networks["plain"]
layers = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "conv_shortcut", "time_emb_proj"]
target.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=layers, init_lora_weights=False))
text_encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "fc1"], init_lora_weights=False))
for network in [target, text_encoder]:
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.15 * torch.randn_like(parameter))
adapters = {"unet": get_peft_model_state_dict(target), "text_encoder": get_peft_model_state_dict(text_encoder)}
StableDiffusionPipeline.save_lora_weights(
    OUT, unet_lora_layers=adapters["unet"], text_encoder_lora_layers=adapters["text_encoder"],
    weight_name="lora_peft.safetensors", unet_lora_adapter_metadata=target.peft_config["default"].to_dict(),
    text_encoder_lora_adapter_metadata=text_encoder.peft_config["default"].to_dict(),
)  # fmt: skip
kohya = {}
for component, prefix, alpha in [("unet", "lora_unet_", 6.0), ("text_encoder", "lora_te_", 2.0)]:
    for key, value in adapters[component].items():
        module, half = key.removesuffix(".weight").rsplit(".", 1)
        name = prefix + module.replace(".", "_")
        kohya[f"{name}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = value.contiguous()
        kohya[f"{name}.alpha"] = torch.tensor(alpha)
save_file(kohya, OUT / "lora_kohya.safetensors")
for network in [target, text_encoder]:
    (network.delete_adapters if network is target else network.delete_adapter)("default")


def lora(name, scale, found):
    pipe = pipeline(text, **DDIM)
    pipe.load_lora_weights(found if isinstance(found, dict) else OUT, weight_name="lora_peft.safetensors")
    pipe.fuse_lora(lora_scale=scale)
    record(f"{name}-{scale}", pipe, **PROMPT, num_inference_steps=4)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()


unet_alone = {key: value for key, value in kohya.items() if key.startswith("lora_unet_")}
save_file(unet_alone, OUT / "lora_unet.safetensors")
lora("lora_peft", 1.0, None)
# The same update under other names. diffusers 0.42.1 cannot load kohya's names for the text encoder of transformers 5,
# and drops what it does not find; for the U-Net alone it can.
lora("lora_kohya", 0.5, None)
lora("lora_unet", 0.5, unet_alone)
difference = (expected["lora_unet-0.5.image"] - expected["lora_kohya-0.5.image"]).abs().max()
assert difference > 1e-3, difference
save_file(expected, OUT / "expected.safetensors")
save_file(more, OUT / "more.safetensors")
