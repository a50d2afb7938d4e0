"""gather and batch norm in two gloo processes; run as a script, this file is one of them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn

from fgbench.layers.batchnorm import convert_sync_batchnorm
from fgbench.layers.distributed import gather

WORLD = 2


def inputs(rank=None):
    x = (
        torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 3
        + torch.tensor([50.0, 0, 1])[:, None, None]
    )
    return x if rank is None else x.chunk(WORLD)[rank]


def norm(momentum=0.1):
    layer = nn.BatchNorm2d(3, momentum=momentum)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.5, -2.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    return layer


def run_norm(layer, x):
    """Two steps; the weights of the sum make the gradient of every value different."""
    x = x.clone().requires_grad_()
    weights = torch.sin(torch.arange(8 * 75.0)).view(8, 3, 5, 5)
    weights = weights if len(x) == 8 else weights.chunk(WORLD)[dist.get_rank()]
    layer(x.detach())
    y = layer(x)
    (y * y * weights).sum().backward()
    return {
        "y": y.detach(),
        "x.grad": x.grad,
        "weight.grad": layer.weight.grad,
        "bias.grad": layer.bias.grad,
        **{name: value.clone() for name, value in layer.named_buffers()},
    }


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    x = torch.tensor([[1.0, 2.0]]) * (rank + 1)
    x.requires_grad_()
    rows = gather(x)
    (rows * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().mul(rank + 1).backward()
    uneven = inputs()[:3] if rank == 0 else inputs()[3:]
    result = {
        "rows": rows.detach(),
        "rows.grad": x.grad,
        "norm": run_norm(convert_sync_batchnorm(norm()), inputs(rank)),
        "cumulative": run_norm(convert_sync_batchnorm(norm(momentum=None)), inputs(rank)),
        "uneven": convert_sync_batchnorm(norm())(uneven).detach(),
        "half": convert_sync_batchnorm(norm())(inputs(rank).bfloat16()).detach(),
    }
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    command = [sys.executable, str(Path(__file__).resolve())]
    processes = [subprocess.Popen([*command, str(rank), str(folder)]) for rank in range(WORLD)]
    assert [process.wait(timeout=120) for process in processes] == [0] * WORLD
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def test_gather_concatenates_in_the_order_of_ranks(results):
    for result in results:
        assert result["rows"].tolist() == [[1, 2], [2, 4]]


def test_gradient_of_gather_is_the_sum_over_what_all_processes_want(results):
    assert results[0]["rows.grad"].tolist() == [[3, 30]]  # weights 1 and 10, once from rank 0 and twice from rank 1
    assert results[1]["rows.grad"].tolist() == [[300, 3000]]


@pytest.mark.parametrize(("case", "momentum"), [("norm", 0.1), ("cumulative", None)])
def test_batch_norm_is_that_of_the_union_batch(results, case, momentum):
    single = run_norm(norm(momentum), inputs())
    for name in ("y", "x.grad"):
        torch.testing.assert_close(torch.cat([r[case][name] for r in results]), single[name], rtol=1e-4, atol=1e-4)
    for name in ("weight.grad", "bias.grad"):
        torch.testing.assert_close(sum(r[case][name] for r in results), single[name], rtol=1e-4, atol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(results[0][case][name], single[name])
        assert torch.equal(results[0][case][name], results[1][case][name])


def test_batch_norm_weighs_uneven_shards_by_their_size(results):
    torch.testing.assert_close(torch.cat([r["uneven"] for r in results]), norm()(inputs()), rtol=1e-4, atol=1e-4)


def test_batch_norm_keeps_half_precision_and_sums_in_single(results):
    found = torch.cat([r["half"] for r in results])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), norm()(inputs().bfloat16().float()), rtol=0.02, atol=0.02)


if __name__ == "__main__":
    worker(int(sys.argv[1]), sys.argv[2])
