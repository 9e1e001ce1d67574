"""Muon in float32 and batched by shape is torch.optim.Muon, and its state survives a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch

from depthlm.training.optimizer import MuonAdamW, build_optimizer, orthogonalise


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.LayerNorm(20), torch.nn.Linear(20, 12))
    net.add_module("lm_head", torch.nn.Linear(12, 5, bias=False))
    return net


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        loss = net(torch.randn(8, 12, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8), (1, 1, 5)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.3
    assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_one_matrix_moves_as_under_torch_muon(shape):
    """torch iterates in bfloat16: the two agree to its precision, over several steps of momentum."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    a = MuonAdamW([{"params": [ours], "muon": True, "betas": (0.95, 0.95), "weight_decay": 0.1}], lr=1e-2)
    b = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(10 + step))
        for parameter, optimizer in ((ours, a), (theirs, b)):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.03 * moved


def test_matrices_in_blocks_take_muon_and_all_else_adamw():
    net = network()
    optimizer = build_optimizer(net, name="muon", lr=1e-2, weight_decay=0.1)
    muon = [p for group in optimizer.param_groups if group.get("muon") for p in group["params"]]
    assert {tuple(p.shape) for p in muon} == {(20, 12), (12, 20)}
    train(net, optimizer, 2)
    assert all("momentum" in optimizer.state[p] for p in muon)
    assert "exp_avg" in optimizer.state[net.lm_head.weight]


def test_frozen_parameters_are_left_out():
    net = network()
    net[0].requires_grad_(False)
    count = sum(len(g["params"]) for g in build_optimizer(net, name="adamw", lr=1e-3, weight_decay=0).param_groups)
    assert count == len([p for p in net.parameters() if p.requires_grad])


def test_a_checkpoint_continues_bit_for_bit():
    whole_net = network()
    whole = train(whole_net, build_optimizer(whole_net, name="muon", lr=1e-2, weight_decay=0.1), 6)
    first = network()
    optimizer = build_optimizer(first, name="muon", lr=1e-2, weight_decay=0.1)
    start = train(first, optimizer, 3)
    second = network(seed=9)
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second, name="muon", lr=1e-2, weight_decay=0.1)
    resumed.load_state_dict(optimizer.state_dict())
    assert start + train(second, resumed, 3, first=3) == whole


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("fused", [True, None])
def test_going_on_bit_for_bit_also_from_before_steps_were_fused(name, fused):
    whole, later = network(), network()
    optimizer = build_optimizer(whole, name=name, lr=1e-2, weight_decay=0.1)
    assert all(group["fused"] for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["fused"] = fused
    train(whole, optimizer, 4)
    weights, state = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    expected = train(whole, optimizer, 4, first=4)
    later.load_state_dict(weights)
    resumed = build_optimizer(later, name=name, lr=1e-2, weight_decay=0.1)
    resumed.load_state_dict(state)
    assert train(later, resumed, 4, first=4) == expected
    for a, b in zip(whole.parameters(), later.parameters(), strict=True):
        assert torch.equal(a, b)
