"""One forward pass of the host's model: what its Perspective blocks must know, and whether they run in it at all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from .host import attention_is_patched

PASS = "viewpoint_pass"
PATCH = (1, 2, 2)


@dataclass
class ForwardPass:
    """grid: the tokens (t, h, w) of the latent. one_by_one: other nodes patched the blocks' attention, which then must
    see the batch that it knows. reached: a Perspective block ran in it."""

    grid: tuple[int, int, int]
    one_by_one: bool = False
    reached: bool = False


@dataclass
class Run:
    """A sampling run. judged: its first pass is over, and Perspective blocks ran in it."""

    judged: bool = False


CURRENT_PASS: ContextVar[ForwardPass | None] = ContextVar("viewpoint_pass", default=None)
CURRENT_RUN: ContextVar[Run | None] = ContextVar("viewpoint_run", default=None)


@contextmanager
def holding(variable: ContextVar, value: Any) -> Iterator[None]:
    """A context variable with another value, until the block ends."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def sampling_run() -> Any:
    """A context in which the first forward pass is judged."""
    return holding(CURRENT_RUN, Run())


def pass_of(args: dict[str, Any]) -> ForwardPass:
    """The pass that a block replacement is called in. Nodes that replace the model's forward pass give their blocks no
    options. Raises ValueError outside of the host's `apply_model`."""
    # the options first: compiled code reads them without leaving its graph
    noted = (args.get("transformer_options") or {}).get(PASS) or CURRENT_PASS.get()
    if noted is None:
        raise ValueError(
            "another node runs the model's blocks outside of ComfyUI's own call of the model, and Pano-Perspective "
            "attention does not know the map's size there; remove that node"
        )
    return noted


def note_pass(
    executor: Callable,
    x: torch.Tensor,
    t: torch.Tensor,
    c_concat: torch.Tensor | None = None,
    c_crossattn: torch.Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """APPLY_MODEL wrapper: tell the blocks of their pass, and judge a run's first one."""
    grid = tuple(-(-size // patch) for size, patch in zip(x.shape[2:], PATCH, strict=True))
    noted = ForwardPass(grid, attention_is_patched(executor.class_obj))
    options = {**(transformer_options or {}), PASS: noted}
    with holding(CURRENT_PASS, noted):
        out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    judge(noted, options)
    return out


def judge(noted: ForwardPass, options: dict[str, Any]) -> None:
    """Raise ValueError where Perspective blocks stood in the options of a run's first pass and none of them ran.

    Later passes are left alone: caches of whole steps run no block in some of them. So are passes in which other
    replacements stand in for all Perspective blocks, as those that skip layers do for a while.
    """
    run = CURRENT_RUN.get()
    if run is None or run.judged:
        return
    replaced = options.get("patches_replace", {}).get("dit", {}).values()
    if not any(getattr(replacement, "viewpoint", False) for replacement in replaced):
        return
    if not noted.reached:
        raise ValueError(
            "another node replaces the model's forward pass (some TeaCache nodes do); Pano-Perspective attention "
            "does not run with it, and the map would come out wrong. Remove that node; ComfyUI's own EasyCache and "
            "LazyCache work"
        )
    run.judged = True
