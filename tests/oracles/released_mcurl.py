"""Updates of the released SAC agents, M-CURL's and CURL's, give the same weights as ours.

    git clone https://github.com/teslacool/m-curl peers/m-curl
    git -C peers/m-curl checkout d6b48cf
    sed -i 's/q \\*= self.scaling/q = q * self.scaling/' peers/m-curl/ctmr_sac.py  # today's autograd refuses the former
    PYTHONPATH=src python tests/oracles/released_mcurl.py peers/m-curl

Both sides read the same pixels, mask and noise; what the replays sample and crop is not compared. All is float32,
without native operations and without dropout. Before each update ours receives their weights, so that differences do
not add up. `tests/bench/compat.py`, with which the released code can be imported, needs ale-py.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from mcurl import native
from mcurl.agents.base import Clock
from mcurl.agents.sac import SAC, SacSettings
from mcurl.networks.encoders import Convolutions
from mcurl.objectives.base import Sequences
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.replay.batch import Batch, Contrast, Transitions

CPU = torch.device("cpu")
SHAPE, ACTIONS, FILTERS, FEATURES, HIDDEN = (9, 84, 84), 2, 8, 50, 32
TRANSITIONS, SEQUENCES, LENGTH = 4, 2, 8
UPDATES, WARM_UP, REPEAT = 4, 3, 4
"""Updates, of which every second steps actor, temperature and targets; those of the warm-up; the action repeat."""
EPS = 1e-2
"""Adam's ε on both sides. With 1e-8, a gradient that is 0 but for rounding becomes a step, as of the keys' bias."""
TOLERANCE = 1e-5
"""Rounding, where an update moves weights by about 1e-3; log alpha, which moves by 1e-4, has a tenth. An activation
within rounding of 0 may pass ReLU on one side only: with other seeds, the encoder's difference exceeds this, rarely."""
Pairs = list[tuple[Tensor, Tensor]]
"""Tensors of theirs, and of ours."""


def main(folder: Path) -> None:
    sys.path[0:0] = [str(folder), str(Path(__file__).parents[1] / "bench")]
    import compat

    compat.install()
    from ctmr_sac import CtmrSacAgent
    from curl_sac import CurlSacAgent

    native.disable(native.ALL, "compared in plain float32")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    theirs = their_agent(CtmrSacAgent, adam_warmup_step=WARM_UP, encoder_annealling=True, mtm_bsz=SEQUENCES)
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    theirs.cpc_lrscheduler.step()  # their learning rates count updates from 0, ours from 1
    theirs.encoder_lrscheduler.step()
    settings = MCurlSettings(LENGTH, SEQUENCES, dropout=0.0, schedule="released", warmup=WARM_UP * REPEAT)
    mcurl = compare("M-CURL", theirs, our_agent(MCurl(settings, FEATURES)))
    curl = compare("CURL", their_agent(CurlSacAgent), our_agent(Curl(CurlSettings(), FEATURES)))
    report(mcurl | curl)


def their_agent(kind: Any, **settings: Any) -> Any:
    """A released agent with the settings of its main program, but small."""
    sac = {"init_temperature": 0.1, "alpha_lr": 1e-4, "alpha_beta": 0.5, "critic_tau": 0.01, "encoder_tau": 0.05}
    agent = kind(SHAPE, (ACTIONS,), CPU, hidden_dim=HIDDEN, num_filters=FILTERS, **sac, **settings)
    with torch.no_grad():  # no zeros, and targets that differ
        for parameter in weights(agent.critic, agent.critic_target, agent.actor):
            parameter += 0.01 * torch.randn_like(parameter)
        agent.actor.trunk[-1].weight *= 0.1  # moderate actions: the released log π is inexact where tanh saturates
    return agent


def our_agent(objective: MCurl | Curl) -> SAC:
    settings = SacSettings(batch_size=TRANSITIONS, hidden=HIDDEN, filters=FILTERS)
    space = gymnasium.spaces.Box(-1, 1, (ACTIONS,), np.float32)
    return SAC(settings, SHAPE, space, objective, device=CPU)


def compare(name: str, theirs: Any, ours: SAC) -> dict[str, tuple[float, float]]:
    """Largest difference after an update, and its tolerance, of each part of the agents."""
    rng, parts = np.random.default_rng(1), parts_of(theirs, ours)
    for optimizer in (*ours.optimizers.values(), *vars(theirs).values()):
        for group in optimizer.param_groups if isinstance(optimizer, torch.optim.Adam) else ():
            assert group["eps"] == 1e-8
            group["eps"] = EPS
    found: dict[str, list[float]] = {part: [] for part in parts}
    for update in range(UPDATES):
        for their, our in (pair for pairs in parts.values() for pair in pairs):
            our.copy_(their.view(our.shape))
        batch, their_batch = sample(ours.objective, rng)
        replay = SimpleNamespace(**dict.fromkeys(("sample_ctmr", "sample_curl"), lambda x=their_batch: x))
        torch.manual_seed(update)  # of the policy's noise
        theirs.update(replay, SimpleNamespace(log=lambda *_: None), update + 1)
        torch.manual_seed(update)
        ours.update(batch, Clock(update, update, REPEAT, horizon=100_000))
        for part, pairs in parts.items():
            found[part].append(difference(pairs))
    tolerances = dict.fromkeys(parts, TOLERANCE) | {"log alpha": TOLERANCE / 10}
    return {f"{name}: {part}": (float(np.max(values)), tolerances[part]) for part, values in found.items()}


def sample(objective: Any, rng: np.random.Generator) -> tuple[Batch, tuple[Any, ...]]:
    """Transitions, the first of which ends its episode, and two views or masked sequences: for us, and for them."""
    obs, next_obs = pixels(rng, TRANSITIONS), pixels(rng, TRANSITIONS)
    action = torch.from_numpy(rng.uniform(-1, 1, (TRANSITIONS, ACTIONS)).astype(np.float32))
    reward, ones = torch.linspace(-1, 1, TRANSITIONS), torch.ones(TRANSITIONS)
    not_done = torch.arange(TRANSITIONS).clamp_max(1).float()
    if isinstance(objective, Curl):
        contrast = Contrast(obs, pixels(rng, TRANSITIONS), None)
        views = {"obs_anchor": obs.float(), "obs_pos": contrast.key.float()}
    else:
        padded, frames = np.zeros((SEQUENCES, LENGTH), np.bool_), np.zeros((SEQUENCES, LENGTH, 3), np.int64)
        plan = objective.plan(Sequences(padded, frames), rng)
        query, key = pixels(rng, 1 + len(plan.encoded)), pixels(rng, SEQUENCES * LENGTH)
        query[0] = 0
        contrast = Contrast(query, key, plan.to(CPU))
        masked, original = query[contrast.plan.source], key.view(SEQUENCES, LENGTH, *SHAPE)
        views = {"obses": masked.float(), "obses_label": original.float(), "non_masked": contrast.plan.selected}
    batch = Batch(Transitions(obs, action, reward, next_obs, 0.99 * not_done, ones.long(), ones), contrast)
    return batch, (obs.float(), action, reward[:, None], next_obs.float(), not_done[:, None], views)


def pixels(rng: np.random.Generator, n: int) -> Tensor:
    """Noise of different brightness, ``uint8 [n, 9, 84, 84]``."""
    return torch.from_numpy(rng.integers(0, rng.integers(32, 256, (n, 1, 1, 1)), (n, *SHAPE), np.uint8))


def parts_of(theirs: Any, ours: SAC) -> dict[str, Pairs]:
    """The weights of both sides, by part of the agents."""
    critic, target, shared = theirs.critic, theirs.critic_target, ours.encoder.convolutions
    parts = {
        "encoder": (weights(critic.encoder), weights(shared, ours.encoder.features)),
        "critic": (weights(critic.Q1, critic.Q2), weights(ours.critic)),
        "actor": (weights(theirs.actor), weights(shared, ours.actor_features, ours.actor)),
        "log alpha": ([theirs.log_alpha], [ours.log_alpha]),
        "target encoder": (weights(target.encoder), weights(*ours.target_encoder.children())),
        "target critic": (weights(target.Q1, target.Q2), weights(ours.target_critic)),
    }
    if isinstance(ours.objective, Curl):
        parts["W"] = [theirs.CURL.W], [ours.objective.W]
    else:
        blocks = ours.objective.transformer.blocks
        layers = [layer for x in blocks for layer in (x.qkv, x.norm1, x.ffn1, x.ffn2, x.norm2)]
        parts["Transformer"] = weights(theirs.CTMR.attn_layers), weights(*layers)
    return {part: [(a.data, b.data) for a, b in zip(*sides, strict=True)] for part, sides in parts.items()}


def weights(*modules: nn.Module) -> list[Tensor]:
    """Weights in the order of the released modules: the bias of each convolution after its weight."""
    found: list[Tensor] = []
    for module in modules:
        layers = zip(module.weights, module.biases, strict=True) if isinstance(module, Convolutions) else ()
        found += [x for layer in layers for x in layer] or module.parameters()
    return found


def difference(pairs: Pairs) -> float:
    """The largest difference of an element; NaN if there is one."""
    return float(torch.stack([(their.view(our.shape) - our).abs().max() for their, our in pairs]).max())


def report(found: dict[str, tuple[float, float]]) -> None:
    """Print differences beside their tolerances; exit with status 1 if one is larger."""
    for name, (value, tolerance) in found.items():
        print(f"{name:32} {value:.1e}, tolerance {tolerance:.0e}")
    if different := [name for name, (value, tolerance) in found.items() if not value <= tolerance]:
        sys.exit(f"different: {', '.join(different)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
