"""Load a policy that `clearway train` wrote in LeRobot, and record what LeRobot computes with it.

    pip install lerobot==0.4.4 torch==2.11.0
    clearway train models/pusht/train.toml --output runs/pusht
    python tests/golden/lerobot/load_trained.py runs/pusht/policy
    clearway policy check --policy runs/pusht/policy

The folder gets an `expected.safetensors` of four cases: raw and normalized observations, `global_cond`, `noise`,
`unet_out.t{..}`, `sample_normalized`, `actions_normalized`, `actions`; the last command computes the same in Clearway and
fails above its tolerances. LeRobot reads the configuration and the weights by `from_pretrained`, strictly, and the
processors from their files.
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
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from safetensors.torch import load_file, save_file

CASES = 4


@torch.no_grad()
def main(folder):
    config = PreTrainedConfig.from_pretrained(folder)
    policy = DiffusionPolicy.from_pretrained(folder, config=config, strict=True).eval()
    pre = PolicyProcessorPipeline.from_pretrained(folder, config_filename="policy_preprocessor.json")
    post = PolicyProcessorPipeline.from_pretrained(
        folder,
        config_filename="policy_postprocessor.json",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    statistics = load_file(os.path.join(folder, "policy_preprocessor_step_3_normalizer_processor.safetensors"))
    generator = torch.Generator().manual_seed(11)
    model, steps, out = policy.diffusion, config.n_obs_steps, {}
    for k in range(CASES):
        raw = {}
        for name in config.input_features:
            low, high = statistics[f"{name}.min"], statistics[f"{name}.max"]
            raw[name] = low + (high - low) * torch.rand(steps, len(low), generator=generator)
        normalized = [pre({name: value[i] for name, value in raw.items()}) for i in range(steps)]
        batch = {name: torch.stack([step[name] for step in normalized], 1) for name in raw}
        for name in raw:
            out[f"case{k}.raw.{name}"], out[f"case{k}.normalized.{name}"] = raw[name], batch[name]
        condition = model._prepare_global_conditioning(batch)
        width = config.output_features["action"].shape[0]
        noise = torch.randn((1, config.horizon, width), generator=generator)
        out[f"case{k}.global_cond"], out[f"case{k}.noise"] = condition, noise
        for t in (0, config.num_train_timesteps // 2, config.num_train_timesteps - 1):
            out[f"case{k}.unet_out.t{t}"] = model.unet(noise, torch.full((1,), t), global_cond=condition)
        sample = model.conditional_sample(1, global_cond=condition, noise=noise)
        actions = sample[:, steps - 1 : steps - 1 + config.n_action_steps]
        out[f"case{k}.sample_normalized"], out[f"case{k}.actions_normalized"] = sample, actions
        out[f"case{k}.actions"] = post(actions.clone())
    out = {key: value.float().clone().contiguous() for key, value in out.items()}
    save_file(out, os.path.join(folder, "expected.safetensors"))
    print(f"LeRobot loaded {folder}: {sum(p.numel() for p in policy.parameters())} parameters, {CASES} cases recorded")


main(sys.argv[1])
