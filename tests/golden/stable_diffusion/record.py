"""Tiny random networks of every shape that is supported, with what diffusers 0.42.1 computes with them.

python tests/golden/stable_diffusion/record.py, with diffusers 0.42.1, transformers 5.23, torch 2.11, safetensors.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

HERE = Path(__file__).parent
torch.set_grad_enabled(False)
torch.manual_seed(0)
expected = {}


def disturb(network):
    """Norms start at one and zero, ControlNets at nothing: noise shows what is swapped or forgotten."""
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter += 0.1 * torch.randn_like(parameter)
        elif parameter.abs().max() == 0:
            parameter += 0.2 * torch.randn_like(parameter)
    return network.eval()


def save(network, name, **options):
    shutil.rmtree(HERE / name, ignore_errors=True)
    network.save_pretrained(HERE / name, **options)


def record(name, **tensors):
    for key, tensor in tensors.items():
        expected[f"{name}.{key}"] = tensor.contiguous().clone()


def unet(**options):
    config = dict(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return disturb(UNet2DConditionModel(**(config | options)))


def run(name, network, size=(8, 8), time=(500, 3), **options):
    channels = network.config.in_channels
    x = torch.randn(2, channels, *size)
    width = network.config.cross_attention_dim
    text = torch.randn(2, 5, width if isinstance(width, int) else width[0])
    out = network(x, torch.tensor(time), text, **options).sample
    record(name, x=x, text=text, out=out)


# A U-Net and a ControlNet beside it, on latents of odd sizes.
plain = unet(
    block_out_channels=(8, 16, 16),
    layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)
save(plain, "unet")
run("unet", plain, size=(7, 10))
controlnet = ControlNetModel.from_unet(plain, conditioning_embedding_out_channels=(4, 6, 8, 8))
controlnet.register_to_config(controlnet_conditioning_channel_order="bgr")
disturb(controlnet)
save(controlnet, "controlnet")
x, text = torch.randn(2, 4, 7, 10), torch.randn(2, 5, 12)
picture = torch.rand(2, 3, 56, 80)
time = torch.tensor([700, 700])
down, mid = controlnet(x, time, text, picture, conditioning_scale=0.7, return_dict=False)
out = plain(x, time, text, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
record("controlnet", x=x, text=text, picture=picture, mid=mid, out=out)
record("controlnet.down", **{str(i): d for i, d in enumerate(down)})

# Inpainting, guidance as an input, no middle, and other numbers for every stage.
network = unet(in_channels=9)
save(network, "inpaint")
run("inpaint", network)
network = unet(time_cond_proj_dim=16)
save(network, "guided")
scale = torch.tensor([7.5, 2.0])
embedding = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale - 1, embedding_dim=16)
run("guided", network, timestep_cond=embedding)
network = unet(
    mid_block_type=None,
    down_block_types=("CrossAttnDownBlock2D",) * 2,
    up_block_types=("CrossAttnUpBlock2D",) * 2,
)
save(network, "small", variant="fp16")
run("small", network)
network = unet(
    use_linear_projection=True,
    attention_head_dim=[1, 4],
    cross_attention_dim=[12, 12],
    layers_per_block=[1, 2],
    transformer_layers_per_block=[2, 1],
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    mid_block_type="UNetMidBlock2D",
    flip_sin_to_cos=False,
    freq_shift=1,
    upcast_attention=True,
)
save(network, "stages", max_shard_size="60KB")
assert len(list((HERE / "stages").glob("*.safetensors"))) > 2
run("stages", network)
# In half of the precision: the numbers are those of the file.
network = unet().half()
save(network, "half", variant="fp16")
run("half", network.float())

# Autoencoders: one channel, a shift, no attention; and the tiny one, as diffusers and as its author saves it.
vae = AutoencoderKL(
    in_channels=1,
    out_channels=1,
    block_out_channels=(8, 8, 16),
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    latent_channels=3,
    norm_num_groups=4,
    mid_block_add_attention=False,
    use_quant_conv=False,
    use_post_quant_conv=False,
    scaling_factor=0.3,
    shift_factor=0.1,
)
disturb(vae)
save(vae, "vae", safe_serialization=False)
x, z = torch.rand(2, 1, 20, 12) * 2 - 1, torch.randn(2, 3, 5, 3)
moments = vae.encode(x).latent_dist
record("vae", x=x, z=z, mean=moments.mean, deviation=moments.std, out=vae.decode(z / 0.3 + 0.1).sample)
record("vae", scaled=(moments.mean - 0.1) * 0.3)
tiny = AutoencoderTiny(
    encoder_block_out_channels=(8,) * 4,
    decoder_block_out_channels=(8,) * 4,
)
disturb(tiny)
save(tiny, "tiny")
x, z = torch.rand(1, 3, 24, 16) * 2 - 1, torch.randn(1, 4, 3, 2) * 2
record("tiny", x=x, z=z, latents=tiny.encode(x).latents, out=tiny.decode(z).sample)
state = tiny.state_dict()
encoder = {k.removeprefix("encoder.layers."): v for k, v in state.items() if k.startswith("encoder")}
decoder = {}
for key, value in state.items():
    if key.startswith("decoder"):
        layer, rest = key.removeprefix("decoder.layers.").split(".", 1)
        decoder[f"{int(layer) + 1}.{rest}"] = value
torch.save(encoder, HERE / "tiny_encoder.pth")
# What torch wrote before 1.6.
torch.save(decoder, HERE / "tiny_decoder.pth", _use_new_zipfile_serialization=False)

# A checkpoint of a training program, in the original layout and in half precision, of Stable Diffusion 2's kind, that
# says all of its configuration by its shapes.
text_config = CLIPTextConfig(
    vocab_size=40,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=1,
    max_position_embeddings=9,
    hidden_act="gelu",
    eos_token_id=39,
)
text_encoder = disturb(CLIPTextModel(text_config)).half().float()
big = unet(
    block_out_channels=(32, 64),
    cross_attention_dim=64,
    attention_head_dim=[1, 1],
    norm_num_groups=32,
    use_linear_projection=True,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
)
big = big.half().float()
vae = disturb(
    AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
)
vae = vae.half().float()


def ldm_unet(state):
    resnet = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    names = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        # One layer a block.
        "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
        "up_blocks.0.resnets.0": "output_blocks.0.0", "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.resnets.1": "output_blocks.3.0", "up_blocks.1.attentions.1": "output_blocks.3.1",
    }  # fmt: skip
    out = {}
    for key, value in state.items():
        before = next(name for name in names if key.startswith(name + "."))
        rest = key.removeprefix(before)
        if "resnets" in before:
            inner = rest.split(".")[1]
            rest = rest.replace(inner, resnet[inner], 1)
        out["model.diffusion_model." + names[before] + rest] = value
    return out


def ldm_vae(state):
    out = {}
    for key, value in state.items():
        new = key
        for a, b in [
            ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"),
            ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"), ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
            ("mid_block.attentions.0.to_k", "mid.attn_1.k"), ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
            ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"), ("conv_shortcut", "nin_shortcut"),
            ("conv_norm_out", "norm_out"), ("down_blocks.0.resnets", "down.0.block"),
            ("down_blocks.1.resnets", "down.1.block"), ("down_blocks.0.downsamplers.0", "down.0.downsample"),
            ("up_blocks.0.resnets", "up.1.block"), ("up_blocks.1.resnets", "up.0.block"),
            ("up_blocks.0.upsamplers.0", "up.1.upsample"),
        ]:  # fmt: skip
            new = new.replace(a, b)
        if "attn_1" in new and value.ndim == 2:
            value = value[:, :, None, None]
        out["first_stage_model." + new] = value
    return out


def open_clip(state, layers):
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
    }  # fmt: skip
    inner = {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }  # fmt: skip
    out = {new: state[old] for old, new in names.items()}
    for i in range(layers):
        old, new = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for leaf in ["weight", "bias"]:
            for a, b in inner.items():
                out[f"{new}{b}.{leaf}"] = state[f"{old}{a}.{leaf}"]
            parts = [state[f"{old}self_attn.{p}_proj.{leaf}"] for p in "qkv"]
            out[f"{new}attn.in_proj_{leaf}"] = torch.cat(parts)
    return {"cond_stage_model.model." + key: value for key, value in out.items()}


text_state = {k.removeprefix("text_model."): v for k, v in text_encoder.state_dict().items()}
single = ldm_unet(big.state_dict()) | ldm_vae(vae.state_dict()) | open_clip(text_state, 2)
# diffusers' own way back: what was written is what it reads.
back = convert_ldm_unet_checkpoint(dict(single), big.config)
assert back.keys() == big.state_dict().keys()
assert all(torch.equal(back[k], v) for k, v in big.state_dict().items())
back = convert_ldm_vae_checkpoint(dict(single), vae.config)
assert back.keys() == vae.state_dict().keys()
assert all(torch.equal(back[k].squeeze(), v.squeeze()) for k, v in vae.state_dict().items())
# A third layer, which Stable Diffusion 2 does not use, and what else such files hold.
last = {k: torch.randn_like(v) for k, v in single.items() if ".resblocks.1." in k}
single |= {k.replace(".resblocks.1.", ".resblocks.2."): v for k, v in last.items()}
single = {k: v.half() for k, v in single.items()}
single |= {
    "cond_stage_model.model.text_projection": torch.randn(64, 8),
    "cond_stage_model.model.logit_scale": torch.tensor(1.0),
    "model_ema.diffusion_modelinput_blocks00weight": torch.randn(3),
    "betas": torch.rand(5, dtype=torch.float64),
}
checkpoint = {
    "state_dict": single,
    "global_step": 5,
    "optimizer_states": [{"param_groups": [{"lr": 1e-4}], "state": {0: {"step": torch.tensor(3.0)}}}],
    "callbacks": {torch.nn.Identity: {"best": None, "path": Path("last.ckpt")}},
}
torch.save(checkpoint, HERE / "single.ckpt")
tokens = torch.tensor([[38, 4, 7, 39, 39, 39], [38, 1, 2, 3, 4, 39]])
encoded = text_encoder(tokens, output_hidden_states=True)
record("single.text", last=encoded.last_hidden_state, before=encoded.hidden_states[-2], pooled=encoded.pooler_output)
record("single.text", tokens=tokens.to(torch.int32))
run("single.unet", big)
x, z = torch.rand(1, 3, 16, 16) * 2 - 1, torch.randn(1, 4, 8, 8)
record("single.vae", x=x, z=z, mean=vae.encode(x).latent_dist.mean, out=vae.decode(z).sample)

# A ControlNet in the original layout, of the same U-Net.
control = ControlNetModel.from_unet(big, conditioning_embedding_out_channels=(4, 4, 6, 8))
control = disturb(control).half().float()
state, own = {}, {}
for key, value in control.state_dict().items():
    if key.startswith("controlnet_down_blocks."):
        _, i, leaf = key.split(".")
        own[f"control_model.zero_convs.{i}.0.{leaf}"] = value
    elif key.startswith("controlnet_mid_block."):
        own[f"control_model.middle_block_out.0.{key.split('.')[-1]}"] = value
    elif key.startswith("controlnet_cond_embedding."):
        *name, leaf = key.split(".")[1:]
        at = {"conv_in": 0, "conv_out": 14}.get(name[0]) if name[0] != "blocks" else 2 * int(name[1]) + 2
        own[f"control_model.input_hint_block.{at}.{leaf}"] = value
    else:
        state[key] = value
own |= {k.replace("model.diffusion_model.", "control_model."): v for k, v in ldm_unet(state).items()}
back = convert_controlnet_checkpoint(dict(own), control.config)
assert back.keys() == control.state_dict().keys()
assert all(torch.equal(back[k], v) for k, v in control.state_dict().items())
torch.save({k: v.half() for k, v in own.items()}, HERE / "control.pth")
x, text, picture = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 64), torch.rand(1, 3, 64, 64)
down, mid = control(x, torch.tensor([20]), text, picture, return_dict=False)
record("control", x=x, text=text, picture=picture, mid=mid, last=down[-1], first=down[0])

# Numbers that do not lie in their order, that several tensors share, and of a type that only PyTorch has.
counted = torch.arange(12.0)
tensors = {
    "transposed": counted.reshape(3, 4).T,
    "shifted": counted[5:9],
    "repeated": counted[2:4].expand(3, 2),
    "parameter": torch.nn.Parameter(counted[:3].bfloat16()),
    "nested": {"scalar": torch.tensor(2.5, dtype=torch.float64)},
}
tensors["tied"] = tensors["shifted"]
torch.save(tensors, HERE / "views.pt")

save_file(expected, HERE / "expected.safetensors")
for path in HERE.rglob("*.json"):
    text = json.loads(path.read_text())
    text.pop("_name_or_path", None)
    path.write_text(json.dumps(text, indent=1) + "\n")
