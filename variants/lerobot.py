"""K of LeRobot's U-Nets in a Python loop: what FDP is with the parts at hand, and the peer in study/speed/benchmark.py.

    pip install einops diffusers==0.42.1 && pip install --no-deps lerobot==0.4.4
    python train.py --policy lerobot --tasks mt6

Also an example of a fork: any network with the signature of `UNet.forward` can be the components. (adapt.py can add to
those only whose parameters have K as their first axis, as unet.py's: not to this loop.)

lerobot 0.4.4 asks for an older torch, and its package imports torchvision and much else that the U-Net never uses. So
its file is loaded as it is, with empty stand-ins for those imports; the class itself is untouched.
"""

import importlib.util
import sys
import types
from pathlib import Path

import torch
from torch import Tensor

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)
from router import Router


class _StandIn(types.ModuleType):
    """A module in which every name is an empty class."""

    __path__: list = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return torch.nn.Module


def load_unet_class():
    """LeRobot's DiffusionConditionalUnet1d, from the installed package's own file. ValueError where there is none."""
    try:
        # What that file needs of diffusers, before the stand-ins: diffusers asks which other packages are there.
        import einops  # noqa: F401
        from diffusers.schedulers import scheduling_ddim, scheduling_ddpm  # noqa: F401

        folder = Path(importlib.util.find_spec("lerobot").origin).parent / "policies" / "diffusion"
    except (ImportError, AttributeError) as error:  # find_spec gives None for a package that is not there
        raise ValueError(
            "--policy lerobot needs the lerobot package; variants/lerobot.py says how to install it"
        ) from error
    stand_ins = {name: _StandIn(name) for name in (
        "torchvision", "lerobot.policies.diffusion.configuration_diffusion", "lerobot.policies.pretrained",
        "lerobot.policies.utils", "lerobot.utils.constants",
    )}  # fmt: skip
    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        spec = importlib.util.spec_from_file_location("lerobot_unet", folder / "modeling_diffusion.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:  # nobody else may take a stand-in for the real thing
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)
    return module.DiffusionConditionalUnet1d


class LeRobotUNets(torch.nn.Module):
    """K of them: noisy actions (B, H, A), step (B,), condition (B, C) -> predictions (K, B, H, A)."""

    def __init__(self, components: int, action_dim: int, condition_dim: int, channels: tuple[int, ...], kernel: int):
        super().__init__()
        config = types.SimpleNamespace(
            action_feature=types.SimpleNamespace(shape=(action_dim,)), down_dims=channels, kernel_size=kernel,
            n_groups=8, diffusion_step_embed_dim=64, use_film_scale_modulation=True,
        )  # fmt: skip
        unet = load_unet_class()
        self.nets = torch.nn.ModuleList(unet(config, condition_dim) for _ in range(components))

    def forward(self, noisy_actions: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        return torch.stack([net(noisy_actions, step, condition) for net in self.nets])


class Policy(FactorizedPolicy):
    def build(self) -> None:
        """LeRobot's U-Nets at our widths; they have two residual blocks per level where ours have one."""
        c = self.config
        self.components = LeRobotUNets(c.components, c.action_dim, c.condition_dim, tuple(c.channels), c.kernel)
        self.router = Router(c.condition_dim, c.components, c.router)
