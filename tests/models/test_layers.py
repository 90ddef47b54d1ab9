"""Layers with a backward pass of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskconver.inference.runtime import open_runtime
from maskconver.models import create_model
from maskconver.models.layers import depthwise, use_onednn


@pytest.mark.parametrize(
    ("kernel", "dilation", "size"), [(3, 2, (16, 16)), (5, 2, (9, 12)), (3, 6, (7, 9)), (3, 18, (16, 16))]
)
def test_a_dilated_depthwise_convolution_has_the_gradients_of_pytorch(
    kernel: int, dilation: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = depthwise(6, kernel, dilation=dilation).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    y = conv(x)
    assert type(y.grad_fn).__name__ == "DilatedDepthwiseBackward"
    plain = F.conv2d(x, conv.weight, padding=dilation * (kernel - 1) // 2, dilation=dilation, groups=6)
    grad = torch.randn_like(y)
    torch.testing.assert_close(y, plain)
    own, pytorchs = (torch.autograd.grad(v, (x, conv.weight), grad) for v in (y, plain))
    torch.testing.assert_close(own, pytorchs)


def test_graphs_that_are_drawn_hold_plain_convolutions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = depthwise(4, 3, dilation=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    graph = torch.export.export(Net(), (torch.zeros(1, 4, 8, 8, requires_grad=True),)).graph
    assert any("conv2d" in str(node.target) for node in graph.nodes)


class TestOneDnn:
    """1×1 convolutions on one thread."""

    @pytest.fixture
    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(8, 16, 1),
            nn.Conv2d(16, 16, 1, stride=2),
            nn.Conv2d(16, 4, 1, groups=2),
            nn.Conv2d(4, 4, 3),
        )

    @pytest.fixture
    def threads(self) -> Iterator[Callable[[int], None]]:
        before = torch.get_num_threads()
        yield torch.set_num_threads
        torch.set_num_threads(before)

    def test_the_answer_stays(self, network: nn.Module, threads: Callable[[int], None]) -> None:
        threads(1)
        x = torch.randn(2, 8, 12, 12).contiguous(memory_format=torch.channels_last).requires_grad_()
        before = network(x)
        (before_grad,) = torch.autograd.grad(before.square().sum(), x)
        changed = use_onednn(network)
        assert changed == (1 if torch.backends.cpu.get_cpu_capability().startswith("AVX") else 0)
        assert [m.dilation[0] for m in network] == [1 + changed, 1, 1, 1]  # type: ignore[union-attr, index]
        after = network(x)
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            torch.autograd.grad(after.square().sum(), x)[0], before_grad, atol=1e-4, rtol=1e-4
        )

    def test_nothing_changes_on_several_threads_or_in_double(
        self, network: nn.Module, threads: Callable[[int], None]
    ) -> None:
        threads(2)
        assert use_onednn(network) == 0
        threads(1)
        assert use_onednn(network.double()) == 0

    @pytest.mark.parametrize("intel, changed", [(True, 1), (False, 2)])
    def test_large_ones_stay_matrix_products_on_intel(
        self, intel: bool, changed: int, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads(1)
        monkeypatch.setattr("maskconver.models.layers._on_intel", lambda: intel)
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
        network = nn.Sequential(nn.Conv2d(128, 256, 1), nn.Conv2d(256, 256, 1))
        assert use_onednn(network) == changed

    def test_copies_for_inference_use_it_and_a_users_own_module_stays(
        self, threads: Callable[[int], None]
    ) -> None:
        threads(1)
        own = create_model("maskconver_mobile_256", num_classes=2)

        def dilated(model: nn.Module) -> int:
            kernels = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
            return sum(m.dilation == (2, 2) for m in kernels)

        open_runtime(own, "cpu")
        assert dilated(own) == 0
        avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
        copy = open_runtime(own.optimized(), "cpu").model  # type: ignore[attr-defined]
        assert (dilated(copy) > 0) == avx
