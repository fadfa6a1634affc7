"""The peer in timing.py: K of LeRobot's U-Nets in a Python loop, with diffusers' DDIM, in a process of its own.

    python3 -m venv peer && peer/bin/pip install torch==2.13.0 einops diffusers==0.42.1
    peer/bin/pip install --no-deps lerobot==0.4.4

Reads one JSON request per line, answers with the mean seconds per call as one JSON line.
"""

import json
import sys
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from variants.lerobot import LeRobotUNets  # noqa: E402  (the same class that --policy lerobot trains)


class Peer(torch.nn.Module):
    """What FDP is with the parts at hand: K networks in a ModuleList, a router, a weighted sum."""

    def __init__(self, request: dict):
        super().__init__()
        self.horizon, self.action_dim, condition_dim = request["horizon"], 4, 128
        self.encoder = torch.nn.Sequential(  # the same as ours; 51 is the state with its differences of positions
            torch.nn.Linear(51, 256), torch.nn.SiLU(), torch.nn.Linear(256, 256), torch.nn.SiLU(),
            torch.nn.Linear(256, condition_dim),
        )  # fmt: skip
        self.router = torch.nn.Sequential(
            torch.nn.Linear(condition_dim, 64), torch.nn.SiLU(), torch.nn.Linear(64, request["components"])
        )
        self.components = LeRobotUNets(
            request["components"], self.action_dim, condition_dim, tuple(request["channels"]), request["kernel"]
        )
        self.scheduler = DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", clip_sample=True)

    def forward(self, actions, step, condition):
        weights = self.router(condition).softmax(-1)
        return (weights.T[:, :, None, None] * self.components(actions, step, condition)).sum(0)

    def loss(self, observation, actions):
        noise = torch.randn_like(actions)
        step = torch.randint(0, 100, (len(actions),), device=actions.device)
        noisy = self.scheduler.add_noise(actions, noise, step)
        return (self(noisy, step, self.encoder(observation)) - noise).square().mean()

    @torch.no_grad()
    def act(self, observation, steps):
        self.scheduler.set_timesteps(steps)
        condition = self.encoder(observation)
        x = torch.randn(len(observation), self.horizon, self.action_dim, device=observation.device)
        for t in self.scheduler.timesteps:
            step = torch.full((len(x),), int(t), dtype=torch.long, device=x.device)
            x = self.scheduler.step(self(x, step, condition), t, x).prev_sample
        return x.cpu()


def prepare(request: dict):
    """A function to be timed."""
    device = torch.device(request["device"])
    torch.manual_seed(0)
    peer = Peer(request).to(device)
    observation = torch.randn(request["batch"], 51, device=device)
    if request["what"] == "act":
        return lambda: peer.act(observation, request["sampling_steps"])
    actions = torch.rand(request["batch"], request["horizon"], 4, device=device) * 2 - 1
    optimizer = torch.optim.Adam(peer.parameters(), lr=1e-4)  # LeRobot's choice

    def train():
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = peer.loss(observation, actions)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 10.0)
        optimizer.step()

    return train


def main():
    ready = {}
    for line in sys.stdin:
        request = json.loads(line)
        calls = request.pop("calls")
        key = json.dumps(request, sort_keys=True)
        if key not in ready:
            ready[key] = prepare(request)
            for _ in range(3):
                ready[key]()
        torch.set_num_threads(request["threads"])
        cuda = request["device"].startswith("cuda")
        if cuda:  # the warm-up is still in its queue
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            ready[key]()
        if cuda:
            torch.cuda.synchronize()
        print(json.dumps({"seconds": (time.perf_counter() - begin) / calls}), flush=True)


if __name__ == "__main__":
    main()
