"""Record what diffusers' schedulers make of a dummy model: `runs.json`.

    pip install torch==2.11.0 diffusers==0.42.1 && python record.py

The loop, the sample and the model are those of diffusers' own scheduler tests, but for one correction: the model alone
sees the scaled input, and the step sees the sample as it is.
"""

import json
import os

import diffusers
import torch

SD = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
ROBOT = dict(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
LINEAR = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
DDIM = dict(SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
LCM = dict(DDIM, original_inference_steps=50, timestep_scaling=10.0)
TCD = dict(SD, clip_sample=False, original_inference_steps=50)
V = dict(prediction_type="v_prediction")
LEADING = dict(timestep_spacing="leading", steps_offset=1)
DYNAMIC = dict(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5)

RUNS = [
    *((f"ddim_{n}", "DDIM", n, DDIM) for n in (1, 4, 10, 20, 50)),
    ("ddim_eta1_20", "DDIM", 20, DDIM, dict(eta=1.0)),
    ("ddim_eta0.5_20", "DDIM", 20, DDIM, dict(eta=0.5)),
    ("ddim_trailing_20", "DDIM", 20, dict(DDIM, timestep_spacing="trailing")),
    ("ddim_v_20", "DDIM", 20, dict(DDIM, **V)),
    ("ddim_sample_20", "DDIM", 20, dict(DDIM, prediction_type="sample")),
    ("ddim_zero_snr_v_20", "DDIM", 20, dict(DDIM, **V, timestep_spacing="trailing", rescale_betas_zero_snr=True)),
    ("ddim_dynamic_10", "DDIM", 10, dict(DDIM, **DYNAMIC)),
    ("ddim_linear_10", "DDIM", 10, dict(LINEAR, clip_sample=True)),
    *((f"ddim_robot_{n}", "DDIM", n, dict(ROBOT, clip_sample=True)) for n in (10, 16, 100)),
    ("ddim_robot_range2_10", "DDIM", 10, dict(ROBOT, clip_sample=True, clip_sample_range=2.0)),
    ("ddpm_50", "DDPM", 50, dict(SD, clip_sample=False)),
    ("ddpm_large_50", "DDPM", 50, dict(SD, clip_sample=False, variance_type="fixed_large")),
    ("ddpm_robot_100", "DDPM", 100, dict(ROBOT, clip_sample=True)),
    ("ddpm_robot_v_25", "DDPM", 25, dict(ROBOT, **V, clip_sample=True)),
    *((f"pndm_{n}", "PNDM", n, dict(SD, skip_prk_steps=True, steps_offset=1)) for n in (2, 3, 5, 20, 50)),
    ("pndm_v_20", "PNDM", 20, dict(SD, **V, skip_prk_steps=True, steps_offset=1)),
    *(
        (f"{name}_{label}_{n}", cls, n, dict(SD, **more))
        for name, cls in (("euler", "EulerDiscrete"), ("euler_a", "EulerAncestralDiscrete"), ("heun", "HeunDiscrete"))
        for n in (10, 20)
        for label, more in (("noise", {}), ("v", V), ("leading", LEADING))
    ),
    ("heun_clipped_20", "HeunDiscrete", 20, dict(SD, clip_sample=True)),
    ("heun_clipped_v_10", "HeunDiscrete", 10, dict(SD, **V, clip_sample=True, clip_sample_range=0.5)),
    ("euler_karras_20", "EulerDiscrete", 20, dict(SD, use_karras_sigmas=True)),
    ("euler_karras_v_20", "EulerDiscrete", 20, dict(SD, **V, use_karras_sigmas=True)),
    ("euler_exponential_20", "EulerDiscrete", 20, dict(SD, use_exponential_sigmas=True)),
    ("euler_trailing_4", "EulerDiscrete", 4, dict(SD, timestep_spacing="trailing")),
    *(
        (f"dpmpp2m_{label}_{n}", "DPMSolverMultistep", n, dict(SD, **more))
        for n in (10, 20)
        for label, more in (
            ("noise", {}),
            ("v", V),
            ("karras", dict(use_karras_sigmas=True)),
            ("leading", LEADING),
            ("heun", dict(solver_type="heun")),
            ("sde", dict(algorithm_type="sde-dpmsolver++")),
            ("sigma_min", dict(final_sigmas_type="sigma_min")),
            ("sde_sigma_min", dict(final_sigmas_type="sigma_min", algorithm_type="sde-dpmsolver++")),
            ("dynamic", DYNAMIC),
        )
    ),
    ("dpmpp2m_lu_20", "DPMSolverMultistep", 20, dict(SD, use_lu_lambdas=True)),
    *(
        (f"unipc_{label}_{n}", "UniPCMultistep", n, dict(SD, **more))
        for n in (4, 10, 20)
        for label, more in (
            ("noise", {}),
            ("v", V),
            ("karras", dict(use_karras_sigmas=True)),
            ("leading", LEADING),
            ("trailing", dict(timestep_spacing="trailing")),
            ("sigma_min", dict(final_sigmas_type="sigma_min")),
            ("dynamic", DYNAMIC),
            ("order1", dict(solver_order=1)),
            ("order3", dict(solver_order=3)),
        )
    ),
    *(
        (f"deis_{label}_{n}", "DEISMultistep", n, dict(SD, **more))
        for n in (4, 10, 20)
        for label, more in (
            ("noise", {}),
            ("v", V),
            ("karras", dict(use_karras_sigmas=True)),
            ("leading", LEADING),
            ("order3", dict(solver_order=3)),
        )
    ),
    *(
        (f"lms_{label}_{n}", "LMSDiscrete", n, dict(SD, **more))
        for n in (4, 10, 20)
        for label, more in (("noise", {}), ("v", V), ("karras", dict(use_karras_sigmas=True)), ("leading", LEADING))
    ),
    *((f"lcm_{n}", "LCM", n, LCM) for n in (1, 2, 4, 8)),
    *((f"tcd_{n}_{eta}", "TCD", n, TCD, dict(eta=eta)) for n in (1, 2, 4, 8) for eta in (0.0, 0.3, 1.0)),
    ("edm_euler_10", "EDMEuler", 10, dict(sigma_min=0.002, sigma_max=80.0)),
    ("edm_dpmpp2m_10", "EDMDPMSolverMultistep", 10, dict(sigma_min=0.002, sigma_max=80.0)),
    *(
        (f"flow_{shift}_{n}", "FlowMatchEulerDiscrete", n, dict(shift=shift))
        for shift in (1.0, 3.0)
        for n in (4, 10, 28)
    ),
    ("flow_heun_10", "FlowMatchHeunDiscrete", 10, {}),
]


def run(name, cls, steps, config, step_kwargs=None):
    scheduler = getattr(diffusers, f"{cls}Scheduler")(**config)
    scheduler.set_timesteps(steps)
    x = (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2).contiguous()
    x = x * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else x
    generator = torch.Generator().manual_seed(0)
    kwargs = dict(step_kwargs or {})
    if "generator" in scheduler.step.__code__.co_varnames:
        kwargs["generator"] = generator
    trace = []
    for t in scheduler.timesteps:
        xi = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(xi * t / (t + 1), t, x, **kwargs).prev_sample
        trace.append(x.abs().double().sum().item())
    flat = x.flatten()
    return dict(
        name=name,
        **{"class": f"{cls}Scheduler"},
        steps=steps,
        config=config,
        step_kwargs=step_kwargs or {},
        init_noise_sigma=float(getattr(scheduler, "init_noise_sigma", 1.0)),
        timesteps=[float(t) for t in scheduler.timesteps],
        abs_sum_trace=trace,
        first8=flat[:8].tolist(),
        last4=flat[-4:].tolist(),
    )


if __name__ == "__main__":
    folder = os.path.dirname(os.path.abspath(__file__))
    rows = [run(*row) for row in RUNS]
    versions = dict(torch=torch.__version__.split("+")[0], diffusers=diffusers.__version__)
    with open(f"{folder}/runs.json", "w") as file:
        lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
        file.write(f'{{"versions": {json.dumps(versions)},\n"runs": [\n{lines}\n]}}\n')
    print(len(rows), "runs")
