"""Layers with a backward pass of their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskconver.models.layers import depthwise


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
