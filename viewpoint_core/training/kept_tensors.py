"""Tensors that are costly to make, kept in host memory up to a size."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor

MEGABYTE = 1 << 20


class KeptTensors:
    """A cache of at most `megabytes`, which drops what was not asked for longest."""

    def __init__(self, megabytes: float) -> None:
        self.limit, self.size = megabytes * MEGABYTE, 0
        self.tensors: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, on the CPU; made if it is not kept."""
        if key in self.tensors:
            self.tensors.move_to_end(key)
            return self.tensors[key]
        tensor = self.tensors[key] = make().cpu()
        self.size += tensor.nbytes
        while self.size > self.limit:
            self.size -= self.tensors.popitem(last=False)[1].nbytes
        return tensor
