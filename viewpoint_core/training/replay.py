"""A training step's passes as a CUDA graph: a small model's kernels are shorter than their launch."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

WARMUP = 3  # passes before the recording, in which libraries choose kernels and take their memory


class Replay:
    """loss(*inputs) -> (loss, what is returned of it), recorded at the first call and replayed from then on.

    Inputs keep their shapes from call to call. Gradients are the recording's own: a call sets them anew, whatever was
    there.
    """

    def __init__(self, weights: Iterable[nn.Parameter], loss: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.weights, self.loss = list(weights), loss
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The backward pass of these inputs' loss; returns what `loss` returns beside it."""
        if self.graph is None:
            self.record(inputs)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        for weight, gradient in zip(self.weights, self.gradients, strict=True):
            weight.grad = gradient
        return self.shown

    def run(self) -> Tensor:
        """Both passes, on the recording's inputs."""
        loss, shown = self.loss(*self.inputs)
        loss.backward()
        return shown

    def record(self, inputs: tuple[Tensor, ...]) -> None:
        """Record the passes."""
        self.inputs = [value.clone() for value in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                self.clear()
                self.run()
        torch.cuda.current_stream().wait_stream(side)
        self.clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be pinning a batch
            self.shown = self.run()
        self.gradients = [weight.grad for weight in self.weights]
        self.graph = graph

    def clear(self) -> None:
        """Drop the gradients, so that the next pass makes them anew and adds to none."""
        for weight in self.weights:
            weight.grad = None
