"""Upscale models on the host's own memory management: python upscalers.py HOST PACK, as in checks.py."""

import json

from checks import pack, torch
from running import expect_error, outcome

# isort: split
# found once checks has put the host and the pack on the path
import sys

import comfy.model_management
import pack.nodes.host as pack_host
import pack.nodes.memory as memory
import pack.nodes.upscale as upscale_nodes
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from spandrel import ModelLoader

sys.path.append(str(pack))
from scripts.tiny_upscaler import upscaler_weights


def upscaler(scale: int = 2, features: int = 6) -> ModelLoader:
    """An UPSCALE_MODEL as UpscaleModelLoader gives it."""
    return ModelLoader().load_from_state_dict(upscaler_weights(scale, features))


def picture(side: int = 200) -> torch.Tensor:
    """A seeded picture (3, side, side)."""
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))


def check_a_picture_comes_out_as_from_the_hosts_own_node() -> None:
    model, given = upscaler(), picture(700)
    expected = ImageUpscaleWithModel.execute(model, given.movedim(0, -1)[None]).result[0][0].movedim(-1, 0)
    with torch.no_grad(), pack_host.loaded_upscaler(model, 512, 0) as (run, device):
        found = run(given)
    assert device.type == "cpu"
    assert torch.equal(found.clamp(0, 1), expected)


def check_half_precision_models_get_what_they_take() -> None:
    with torch.no_grad():
        with pack_host.loaded_upscaler(upscaler(), 512, 0) as (run, _):
            expected = run(picture())
        for dtype, error in ((torch.float16, 5e-3), (torch.bfloat16, 4e-2)):
            model = upscaler()
            model.model.to(dtype)
            with pack_host.loaded_upscaler(model, 512, 0) as (run, _):
                found = run(picture())
            assert found.dtype == torch.float32
            assert float((found - expected).abs().max()) < error


def check_tiles_shrink_where_memory_runs_out() -> None:
    model, seen = upscaler(), []
    call = model._call_fn

    def small_only(network: torch.nn.Module, part: torch.Tensor) -> torch.Tensor:
        seen.append(part.shape[-1])
        if part.shape[-1] > 150:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return call(network, part)

    model._call_fn = small_only
    with torch.no_grad(), pack_host.loaded_upscaler(model, 512, 0) as (run, _):
        assert run(picture(400)).shape == (3, 800, 800)
        assert seen[:3] == [400, 256, 128]
        seen.clear()
        run(picture(400))
        assert max(seen) == 128, "what was too large once is tried again"


def check_tiles_shrink_on_other_devices_errors_too() -> None:
    management = comfy.model_management
    management.is_oom = lambda error: isinstance(error, torch.AcceleratorError)  # as newer hosts have it
    errors = (RuntimeError("MPS backend out of memory (9 GB)"), torch.AcceleratorError("device error 2"))
    try:
        for error in errors:
            assert largest_tile_that_ran(error) == 128
    finally:
        del management.is_oom
    for error in (RuntimeError("size mismatch"), management.InterruptProcessingException()):
        try:
            largest_tile_that_ran(error)
        except type(error):
            continue
        raise AssertionError("no error")


def largest_tile_that_ran(error: Exception) -> int:
    """The largest side of the tiles that an upscaler is run with at the end, which has `error` for those above 150."""
    model, ran = upscaler(), []
    call = model._call_fn

    def small_only(network: torch.nn.Module, part: torch.Tensor) -> torch.Tensor:
        if part.shape[-1] > 150:
            raise error
        ran.append(part.shape[-1])
        return call(network, part)

    model._call_fn = small_only
    with torch.no_grad(), pack_host.loaded_upscaler(model, 512, 0) as (run, _):
        run(picture(400))
    return max(ran)


def check_memory_that_is_never_enough_is_an_error() -> None:
    model = upscaler()

    def never(network: torch.nn.Module, part: torch.Tensor) -> torch.Tensor:
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    model._call_fn = never
    try:
        with pack_host.loaded_upscaler(model, 512, 0) as (run, _):
            run(picture(400))
    except comfy.model_management.OOM_EXCEPTION:
        return
    raise AssertionError("no error")


def check_a_model_of_other_channels_is_refused() -> None:
    model = upscaler()
    model.input_channels = 1
    frames = torch.zeros(1, 3, 64, 64)
    expect_error(lambda: upscale_nodes.plan_upscale(frames, model, 4096, 1, 512), "takes 1 channel(s) and gives 3")


def check_a_model_that_makes_nan_is_named() -> None:
    model = upscaler()
    with torch.no_grad():
        next(model.model.parameters()).fill_(torch.nan)
    image = torch.full((1, 64, 64, 3), 0.5)
    expect_error(lambda: upscale_nodes.ViewPointUpscale.execute(image, 256, 1, 512, model), "upscale model made")


def check_an_upscale_model_that_finds_no_room_on_the_device_goes_back() -> None:
    model, places = upscaler(), []

    def move(device: torch.device | str) -> None:
        places.append(str(device))
        if len(places) == 1:
            raise ValueError("no room")

    model.to = move
    image = torch.full((1, 64, 64, 3), 0.5)
    expect_error(lambda: upscale_nodes.ViewPointUpscale.execute(image, 256, 1, 512, model), "no room")
    assert places[1:] == ["cpu"], places


def check_a_video_beyond_memory_is_refused_before_work() -> None:
    image = torch.full((1, 64, 64, 3), 0.5).expand(100_000, -1, -1, -1)
    expect_error(lambda: upscale_nodes.ViewPointUpscale.execute(image, 16384, 1, 512), "holds one at a time")


def check_charts_beyond_memory_are_refused_before_work() -> None:
    model, frames = upscaler(4), torch.zeros(1, 3, 736, 736)
    upscale_nodes.plan_upscale(frames, model, 4096, 1, 512)
    free = memory.free_bytes
    memory.free_bytes = lambda: 8 << 30
    try:
        expect_error(lambda: upscale_nodes.plan_upscale(frames, model, 8192, 3, 512), "expected fewer passes")
        expect_error(lambda: upscale_nodes.plan_upscale(frames, model, 8192, 3, 512), "charts of 26112 x 26112")
        upscale_nodes.plan_upscale(frames, model, 8192, 2, 512)
    finally:
        memory.free_bytes = free


if __name__ == "__main__":
    checks = {name: check for name, check in list(globals().items()) if name.startswith("check_")}
    print("RESULT " + json.dumps({name: outcome(check) for name, check in checks.items()}))
