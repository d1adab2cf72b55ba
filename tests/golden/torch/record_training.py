"""Three training steps of a small network of LeRobot's with AdamW, for `training_matches_torch.rs`.

    python tests/golden/torch/record_training.py

It imports LeRobot as the benchmarks do (see benches/README.md). Writes `training.safetensors`: the network's parameters
before (`before.*`), what it is fed (`x`, `noise`, `condition`, `t`: the steps' batches one after the other), the losses,
the gradients of the first step (`gradient.*`) and the parameters after three steps (`after.*`).
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "benches" / "peers"))
import lerobot_diffusion as lerobot  # noqa: E402
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d  # noqa: E402

BATCH, HORIZON, CONDITION, STEPS = 5, 8, 3, 3


def main():
    torch.manual_seed(7)
    torch.set_num_threads(1)
    config = lerobot.DiffusionConfig(
        input_features={
            "observation.state": lerobot.PolicyFeature(lerobot.FeatureType.STATE, (CONDITION,)),
            "observation.environment_state": lerobot.PolicyFeature(lerobot.FeatureType.ENV, (1,)),
        },
        output_features={"action": lerobot.PolicyFeature(lerobot.FeatureType.ACTION, (2,))},
        n_obs_steps=1,
        horizon=HORIZON,
        n_action_steps=4,
        down_dims=(8, 16),
        kernel_size=5,
        n_groups=4,
        diffusion_step_embed_dim=12,
        device="cpu",
    )
    unet = DiffusionConditionalUnet1d(config, global_cond_dim=CONDITION)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            # Scales and offsets of the normalizations begin as ones and zeros, where mistakes hide.
            if ".block.1." in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    saved = {f"before.{name}": value.clone() for name, value in unet.state_dict().items()}
    x, noise = (torch.randn(STEPS, BATCH, HORIZON, 2) for _ in range(2))
    condition, t = torch.randn(STEPS, BATCH, CONDITION), torch.randint(0, 100, (STEPS, BATCH))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3, betas=(0.95, 0.999), eps=1e-8, weight_decay=1e-2)
    losses = []
    for step in range(STEPS):
        loss = torch.nn.functional.mse_loss(unet(x[step], t[step], global_cond=condition[step]), noise[step])
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            saved |= {f"gradient.{name}": value.grad.clone() for name, value in unet.named_parameters()}
        optimizer.step()
        losses.append(loss.detach())
    saved |= {f"after.{name}": value.clone() for name, value in unet.state_dict().items()}
    saved |= {"x": x, "noise": noise, "condition": condition, "t": t.float(), "losses": torch.stack(losses)}
    save_file({name: value.contiguous() for name, value in saved.items()}, HERE / "training.safetensors")
    print(sum(value.numel() for value in unet.parameters()), "parameters, losses", [float(loss) for loss in losses])


if __name__ == "__main__":
    main()
