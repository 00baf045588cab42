"""Checks of the model's forward pass under other nodes: python passes.py HOST PACK prints {check: error or null}.

Builds on checks.py. Run by tests/test_model_in_host.py, once for all checks.
"""

import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

from checks import BLOCKS, LATENT, forward_pass, host_access, load, model_nodes, run, torch
from running import expect_error, run_checks

# isort: split
# found once checks has put the host on the path
import comfy.ldm.wan.model as wan_model
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple

PERSPECTIVE = [block for block in range(BLOCKS) if block % 2]


def sample(model: Any, steps: int = 2, **settings: Any) -> torch.Tensor:
    """The host's own KSampler on a MODEL, with seeded prompts and a seeded known map."""
    generator = torch.Generator().manual_seed(4)
    known = torch.randn((1, 17, *LATENT[2:]), generator=generator)
    positive, negative = ([[torch.randn((1, 8, 4096), generator=generator), {"noise_concat": known}]] for _ in range(2))
    values = {"seed": 5, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **settings}
    latent = {"samples": torch.zeros(LATENT)}
    return host_access.host_ksampler(model, positive, negative, latent, steps=steps, **values)["samples"]


def with_forward(model: Any, run_block: Callable) -> Any:
    """A clone of a MODEL whose forward pass another node replaced; `run_block` says how that one runs a block."""

    def forward(wan: Any, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, **options: Any) -> torch.Tensor:
        x = wan.patch_embedding(x)
        grid = x.shape[2:]
        x, context = x.flatten(2).transpose(1, 2), wan.text_embedding(context)
        time = wan_model.sinusoidal_embedding_1d(wan.freq_dim, t).to(x.dtype)
        e = wan.time_embedding(time).reshape(t.shape[0], -1, x.shape[-1])
        vec = wan.time_projection(e).unflatten(2, (6, wan.dim))
        for number, block in enumerate(wan.blocks):
            x = run_block(number, block, {"img": x, "txt": context, "vec": vec, "pe": options["freqs"]}, options)
        return wan.unpatchify(wan.head(x, e), grid)

    replaced = model.clone()
    replaced.add_object_patch("diffusion_model.forward_orig", MethodType(forward, model.model.diffusion_model))
    return replaced


def plain(block: Any, args: dict[str, Any]) -> torch.Tensor:
    """A block of the host's on a replacement's arguments."""
    return block(args["img"], e=args["vec"], freqs=args["pe"], context=args["txt"])


def without_options(number: int, block: Any, args: dict[str, Any], options: dict[str, Any]) -> torch.Tensor:
    """As replaced forward passes call block replacements: without the options."""
    replaced = options["transformer_options"].get("patches_replace", {}).get("dit", {})
    if ("double_block", number) not in replaced:
        return plain(block, args)
    extra = {"original_block": lambda inner: {"img": plain(block, inner)}}
    return replaced["double_block", number](args, extra)["img"]


def deaf(number: int, block: Any, args: dict[str, Any], options: dict[str, Any]) -> torch.Tensor:
    """As replaced forward passes run blocks that never ask for replacements."""
    return plain(block, args)


def check_perspective_blocks_run_in_a_forward_pass_that_gives_them_no_options() -> None:
    patched = model_nodes.patch_model(load(33), "alternating")
    other = with_forward(patched, without_options)
    assert (run(other, 33) - run(patched, 33)).abs().max() < 1e-5
    assert torch.isfinite(sample(other)).all()
    assert forward_pass.CURRENT_PASS.get() is None


def check_a_forward_pass_that_runs_no_perspective_block_is_refused_after_its_first_one() -> None:
    patched, calls = model_nodes.patch_model(load(33), "alternating"), []

    def counted(number: int, *rest: Any) -> torch.Tensor:
        calls.append(number)
        return deaf(number, *rest)

    expect_error(lambda: sample(with_forward(patched, counted)), "another node replaces the model's forward pass")
    assert calls == list(range(BLOCKS))
    assert forward_pass.CURRENT_RUN.get() is None
    pano = model_nodes.patch_model(load(33), "pano")
    assert torch.isfinite(sample(with_forward(pano, deaf))).all()


def check_the_hosts_caches_skip_steps_of_a_patched_model() -> None:
    for cache in (EasyCacheNode, LazyCacheNode):
        for front in (False, True):  # the cache before or behind the patch
            calls: list[int] = []
            model = load(33)
            cached = cache.execute(model, 1e3, 0.0, 1.0, False).args[0] if front else model
            patched = model_nodes.patch_model(cached, "alternating")
            patched = patched if front else cache.execute(patched, 1e3, 0.0, 1.0, False).args[0]
            block = patched.model.diffusion_model.blocks[0]
            hook = block.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
            assert torch.isfinite(sample(patched, steps=8)).all()
            hook.remove()
            assert 1 <= len(calls) < 8, (cache, front, calls)


def check_skipped_layers_are_no_replaced_forward_pass() -> None:
    layers = ",".join(map(str, PERSPECTIVE))
    for guidance in (SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple):
        settings = {"double_layers": layers, "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
        scale = {"scale": 3.0} if guidance is SkipLayerGuidanceDiT else {}
        patched = model_nodes.patch_model(load(33), "alternating")
        assert torch.isfinite(sample(guidance.execute(patched, **settings, **scale).args[0])).all()


def check_passes_in_two_threads_do_not_see_each_other() -> None:
    patched = with_forward(model_nodes.patch_model(load(33), "alternating"), without_options)
    barrier, outputs = threading.Barrier(2), {}
    options = {**patched.model_options["transformer_options"]}
    options["wrappers"] = {kind: dict(by_key) for kind, by_key in patched.wrappers.items()}

    def denoise(frames: int) -> torch.Tensor:
        known, text = torch.ones(1, 17, frames, 8, 8), torch.ones(1, 8, 4096)
        with torch.no_grad():
            return patched.model.apply_model(
                known[:, :16], torch.tensor([0.5]), known, text, transformer_options=options
            )

    def denoise_at_once(frames: int) -> None:
        barrier.wait()
        outputs[frames] = denoise(frames)

    patched.patch_model()
    threads = [threading.Thread(target=denoise_at_once, args=(frames,)) for frames in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((outputs[frames] - denoise(frames)).abs().max() < 1e-5 for frames in (2, 3))


def check_an_error_in_a_pass_leaves_nothing_behind() -> None:
    def broken(*_: Any) -> torch.Tensor:
        raise ValueError("broken block")

    patched = model_nodes.patch_model(load(33), "alternating")
    expect_error(lambda: sample(with_forward(patched, broken)), "broken block")
    assert (forward_pass.CURRENT_PASS.get(), forward_pass.CURRENT_RUN.get()) == (None, None)
    args = {"img": torch.zeros(1, 4, 8)}
    expect_error(lambda: model_nodes.perspective_block(None)(args, {}), "outside of ComfyUI's own call")


def check_the_whole_model_compiles_into_one_graph_and_once() -> None:
    graphs, stock = [], wan_model.optimized_attention

    def backend(graph: torch.fx.GraphModule, _: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    patched = model_nodes.patch_model(load(33), "alternating")
    compiled = patched.clone()
    set_torch_compile_wrapper(compiled, backend=backend)
    wan_model.optimized_attention = attention_pytorch  # the host's default on a CPU asks for free memory, out of graphs
    try:
        outputs = [run(compiled, 33) for _ in range(3)]
        expected = run(patched, 33)
    finally:
        wan_model.optimized_attention = stock
    assert len(graphs) == 1, len(graphs)
    assert all((output - expected).abs().max() < 1e-5 for output in outputs)


def check_patched_attention_sees_the_batch_that_it_knows() -> None:
    model, seen = load(33), []
    model_clone = model_nodes.patch_model(model, "alternating")
    expected = run(model_clone, 33)
    for number, block in enumerate(model.model.diffusion_model.blocks):
        original = block.cross_attn.forward

        def spy(x: torch.Tensor, context: torch.Tensor, original: Any = original, **options: Any) -> torch.Tensor:
            seen.append((x.shape[0], context.shape[0]))
            return original(x, context, **options)

        model_clone.add_object_patch(f"diffusion_model.blocks.{number}.cross_attn.forward", spy)
    one_by_one = run(model_clone, 33)
    assert seen == (BLOCKS // 2 + 4 * len(PERSPECTIVE)) * [(1, 1)]
    assert (one_by_one - expected).abs().max() < 1e-5


def check_both_ways_of_running_the_subregions_give_the_same() -> None:
    wan = load(33).model.diffusion_model
    torch.manual_seed(2)
    args = {"img": torch.randn(2, 32, wan.dim), "txt": torch.randn(2, 8, wan.dim)}
    args["pe"] = wan.rope_encode(2, 8, 8, device="cpu", dtype=torch.float32)
    for vec in (torch.randn(2, 1, 6, wan.dim), torch.randn(2, 32, 6, wan.dim)):
        outs = []
        for one_by_one in (False, True):
            noted = forward_pass.ForwardPass((2, 4, 4), one_by_one)
            given = {**args, "vec": vec, "transformer_options": {forward_pass.PASS: noted}}
            extra = {"original_block": lambda inner: {"img": plain(wan.blocks[1], inner)}}
            with torch.no_grad():
                outs.append(model_nodes.perspective_block(None)(given, extra)["img"])
            assert noted.reached
        assert (outs[0] - outs[1]).abs().max() < 1e-5


if __name__ == "__main__":
    run_checks(dict(globals()))
