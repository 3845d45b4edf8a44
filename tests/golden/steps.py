"""What the schedulers of diffusers make of noise with a model that a formula gives.

Writes steps.json: `noise` [draws][elements]; and cases, each with a sampler's declaration, the number of
steps, and the sample after each step, [steps][elements]. DMD2's rule and EDM's preconditioning, for which
diffusers has no scheduler of few steps, are computed from the papers' formulas. The schedulers run in f64:
where the noise is large, Euler's differences lose more than 1e-5 in f32.

Run by `cargo xtask golden`.
"""

import json
import math
from pathlib import Path

import torch
from diffusers import schedulers

OUT = Path(__file__).parent / "steps.json"
COUNTS = (1, 2, 4, 8)
ELEMENTS = 4

torch.manual_seed(11)
NOISE = torch.randn(max(COUNTS) + 1, ELEMENTS).double()
# The schedulers name f32 in many places.
torch.float32 = torch.float64


def model(x, t, r=0.0):
    """The student; the test has the same formula."""
    index = torch.arange(ELEMENTS)
    return 0.9 * torch.tanh(0.5 * x) + 0.1 * torch.cos(0.01 * t + 0.02 * r + index)


def draws(scheduler):
    """Lets a scheduler draw from NOISE, from its second row on."""
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    rows = iter(NOISE[1:])
    module.randn_tensor = lambda *_, **__: next(rows).clone()


def run(scheduler, set_timesteps, start=None, scale=1.0, step=None, times=None):
    """The samples of a scheduler. `scale` divides what the model takes and multiplies what it gives."""
    draws(scheduler)
    scheduler.set_timesteps(**set_timesteps)
    start = scheduler.init_noise_sigma if start is None else start
    x, samples = NOISE[0] * float(start), []
    timesteps = scheduler.timesteps if times is None else scheduler.timesteps[:times]
    for at, t in enumerate(timesteps):
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        if step == "flow map":
            r = scheduler.sigmas[at + 1] * scheduler.config.num_train_timesteps
            x = scheduler.step(model(given, float(t), float(r)), t, x, r).prev_sample
        else:
            extra = step or {}
            x = scheduler.step(scale * model(given / scale, float(t)), t, x, **extra).prev_sample
        samples.append(x.tolist())
    return samples


def vp_alphas():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def renoise(timesteps, prediction, clip):
    """DMD2 (Yin et al., 2024): x0 of each step, then fresh noise of the next timestep."""
    alphas, x, samples = vp_alphas(), NOISE[0], []
    for at, t in enumerate(timesteps):
        a, out = alphas[t], model(x, float(t))
        x0 = {"epsilon": (x - (1 - a).sqrt() * out) / a.sqrt(), "sample": out,
              "v_prediction": a.sqrt() * x - (1 - a).sqrt() * out}[prediction]
        if clip:
            x0 = x0.clamp(-clip, clip)
        if at + 1 < len(timesteps):
            b = alphas[timesteps[at + 1]]
            x0 = b.sqrt() * x0 + (1 - b).sqrt() * NOISE[at + 1]
        x = x0
        samples.append(x.tolist())
    return samples


def edm(sigmas, data=0.5):
    """Karras et al. (2022), table 1: D of each level, then fresh noise of the next."""
    x, samples = NOISE[0] * sigmas[0], []
    for at, s in enumerate(sigmas):
        total = s * s + data * data
        x = data * data / total * x + s * data / total**0.5 * model(x / total**0.5, math.log(s) / 4)
        if at + 1 < len(sigmas):
            x = x + sigmas[at + 1] * NOISE[at + 1]
        samples.append(x.tolist())
    return samples


def consistency(sigmas, least=0.002):
    """Song et al. (2023), algorithm 1, of a student that gives x0 itself and takes sigma."""
    x, samples = NOISE[0] * sigmas[0], []
    for at, s in enumerate(sigmas):
        x = model(x, s).clamp(-1, 1)
        if at + 1 < len(sigmas):
            x = x + math.sqrt(sigmas[at + 1] ** 2 - least**2) * NOISE[at + 1]
        samples.append(x.tolist())
    return samples


def of_class(name, config=None, start=None, step=None, more=None):
    """A case for each number of steps, from a scheduler's configuration as it is saved."""
    for count in COUNTS:
        scheduler = getattr(schedulers, name)(**(config or {}))
        saved = json.loads(scheduler.to_json_string()) | (more or {})
        samples = run(scheduler, dict(num_inference_steps=count), start, step=step)
        yield {"scheduler": saved}, count, samples


def cases():
    for prediction in ("epsilon", "sample", "v_prediction"):
        kind = dict(prediction_type=prediction)
        yield from of_class("LCMScheduler", kind)
        yield from of_class("TCDScheduler", kind)
        yield from of_class("EulerDiscreteScheduler", kind | dict(timestep_spacing="trailing"))
    yield from of_class("LCMScheduler", dict(beta_schedule="linear", original_inference_steps=100))
    yield from of_class("LCMScheduler", dict(beta_schedule="squaredcos_cap_v2", timestep_scaling=3.0))
    yield from of_class("TCDScheduler", step=dict(eta=0.0), more=dict(eta=0.0))
    yield from of_class("TCDScheduler", step=dict(eta=1.0), more=dict(eta=1.0))
    latent = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    for spacing in ("linspace", "leading", "trailing"):
        config = latent | dict(timestep_spacing=spacing, steps_offset=1)
        yield from of_class("EulerDiscreteScheduler", config)
        yield from of_class("EulerAncestralDiscreteScheduler", config)
    yield from of_class("EulerDiscreteScheduler", latent | dict(final_sigmas_type="sigma_min"))
    ancestral = latent | dict(prediction_type="v_prediction", timestep_spacing="trailing")
    yield from of_class("EulerAncestralDiscreteScheduler", ancestral)
    for shift in (1.0, 3.0):
        yield from of_class("FlowMatchEulerDiscreteScheduler", dict(shift=shift), 1.0)
        yield from of_class("FlowMapEulerDiscreteScheduler", dict(shift=shift), 1.0, "flow map")
    yield from of_class("FlowMatchEulerDiscreteScheduler", dict(shift=5.0, stochastic_sampling=True), 1.0)
    yield from of_class("CMStochasticIterativeScheduler")
    yield from of_class("CMStochasticIterativeScheduler", dict(clip_denoised=False, s_noise=1.003))

    for count in COUNTS:
        sigmas = [1 - i / count for i in range(count)]
        scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        saved = json.loads(scheduler.to_json_string()) | dict(sigmas=sigmas)
        yield {"scheduler": saved}, count, run(scheduler, dict(sigmas=sigmas), 1.0)

        # Trained in units where the data's deviation is 1: pipelines scale what goes in and out.
        scheduler = schedulers.SCMScheduler()
        between = dict(intermediate_timesteps=1.3 if count == 2 else None)
        saved = json.loads(scheduler.to_json_string())
        scheduler_run = run(scheduler, dict(num_inference_steps=count, **between), 0.5, 0.5, times=count)
        yield {"scheduler": saved}, count, scheduler_run

        trailing = [round(1000 - i * 1000 / count) - 1 for i in range(count)]
        for prediction in ("epsilon", "sample", "v_prediction"):
            rule = dict(rule="renoise", prediction_type=prediction)
            yield {"scheduler": rule}, count, renoise(trailing, prediction, None)
        rule = dict(rule="renoise", clip_sample=True, clip_sample_range=1.5)
        yield {"scheduler": rule}, count, renoise(trailing, "epsilon", 1.5)

        falling = [80 * 0.3**i for i in range(count)]
        yield {"scheduler": dict(rule="edm", sigmas=falling)}, count, edm(falling)
        rule = dict(rule="consistency", output="denoised", time="sigma", sigmas=falling)
        yield {"scheduler": rule}, count, consistency(falling)

    # Students of one step: at timestep 399 (DMD2), from 80 (EDM).
    rule = dict(rule="renoise", timesteps=[399])
    yield {"scheduler": rule}, 1, renoise([399], "epsilon", None)
    yield {"scheduler": dict(rule="edm")}, 1, edm([80.0])


def main():
    found = [
        dict(declaration=declaration | dict(steps=[count]), steps=count, samples=samples)
        for declaration, count, samples in cases()
    ]
    lines = ",\n".join(json.dumps(case) for case in found)
    OUT.write_text(f'{{"noise": {json.dumps(NOISE.tolist())},\n"cases": [\n{lines}\n]}}\n')
    print(f"wrote {OUT.name}: {len(found)} cases")


if __name__ == "__main__":
    main()
