"""The trainer's model: files, widening, Perspective blocks, VAE, LoRA; and beside the host's own model."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from safetensors.torch import load_file, save_file

from scripts.tiny_models import dit_shapes, tiny_weights, vae_shapes, write_vae
from tests.host_process import check_names, outcomes
from viewpoint_core.checkpoint import original_key, read_checkpoint, viewpoint_metadata
from viewpoint_core.safetensors_file import StoredTensor
from viewpoint_core.training import lora, wan, wan_vae

REPO = Path(__file__).parents[1]
SCRIPT = "parity.py"
SIZES = {"blocks": 3, "ffn": 64}


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all checks."""
    return tmp_path_factory.mktemp("parity")


@pytest.mark.host
@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_beside_the_host(check: str, work: Path) -> None:
    assert outcomes(SCRIPT, work)[check] is None, outcomes(SCRIPT, work)[check]


def weights(in_dim: int = 16, seed: int = 1) -> dict[str, torch.Tensor]:
    """A tiny Wan's weights, original names, float32; none of the zeros of a fresh model."""
    return tiny_weights(dit_shapes(in_dim=in_dim, **SIZES), seed)


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A stock 16-channel single file."""
    save_file(weights(), tmp_path / "stock.safetensors", metadata={"format": "pt"})
    return tmp_path / "stock.safetensors"


@pytest.fixture
def model33(tmp_path: Path) -> wan.WanTransformer3DModel:
    """A 33-channel model whose every weight is random."""
    save_file(weights(33), tmp_path / "model33.safetensors")
    return wan.load_transformer(tmp_path / "model33.safetensors")


def arguments(channels: int = 33, size: tuple[int, int, int] = (2, 8, 8), seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Seeded input channels, timesteps and text."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((1, channels, *size), generator=generator)
    return x, torch.tensor([640.0]), torch.randn((1, 12, 4096), generator=generator)


def output(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The model's output."""
    return model(*inputs, return_dict=False)[0]


def test_every_transformer_name_has_exactly_one_original_name(model33: wan.WanTransformer3DModel) -> None:
    names = {original_key(name): tuple(tensor.shape) for name, tensor in model33.state_dict().items()}
    assert names == dit_shapes(in_dim=33, **SIZES)
    assert len(names) == len(model33.state_dict())


def test_every_vae_name_has_exactly_one_original_name(tmp_path: Path) -> None:
    write_vae(tmp_path / "vae.safetensors")
    state = wan_vae.load_vae(tmp_path / "vae.safetensors").state_dict()
    names = {wan_vae.original_vae_key(name): tuple(tensor.shape) for name, tensor in state.items()}
    assert names == vae_shapes(8)
    assert len(names) == len(state)


@pytest.mark.parametrize(("dim", "heads", "blocks", "ffn"), [(1536, 12, 30, 8960), (5120, 40, 40, 13824)])
def test_the_real_sizes_are_read_from_shapes(dim: int, heads: int, blocks: int, ffn: int) -> None:
    shapes = dit_shapes(dim=dim, blocks=blocks, ffn=ffn, in_dim=33)
    stored = {name: StoredTensor(Path("x"), "F32", shape, 0, 0) for name, shape in shapes.items()}
    config = wan.transformer_config(stored, Path("x"))
    assert (config["num_attention_heads"], config["num_layers"], config["ffn_dim"]) == (heads, blocks, ffn)
    assert (config["in_channels"], config["out_channels"], config["text_dim"]) == (33, 16, 4096)
    empty = wan.empty_transformer(config)
    assert {original_key(name): tuple(p.shape) for name, p in empty.named_parameters()} == shapes


def test_every_file_format_loads_the_same_weights(stock: Path, tmp_path: Path) -> None:
    model = wan.load_transformer(stock)
    save_file({f"model.diffusion_model.{k}": v for k, v in weights().items()}, tmp_path / "prefixed.safetensors")
    model.save_pretrained(tmp_path / "pipeline" / "transformer")
    model.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for source in ("prefixed.safetensors", "pipeline", "pipeline/transformer", "shards"):
        again = wan.load_transformer(tmp_path / source).state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items()), source


def test_all_weights_have_one_dtype(tmp_path: Path) -> None:
    save_file({name: tensor.bfloat16() for name, tensor in weights().items()}, tmp_path / "bf16.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        model = wan.load_transformer(tmp_path / "bf16.safetensors", dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert model.rope.freqs_cos.device.type == "cpu"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "blocks.1.norm3.bias"}, "missing blocks.1.norm3.bias"),
        (lambda w: w | {"img_emb.proj.0.bias": torch.zeros(2)}, "unknown img_emb.proj.0.bias"),
        (lambda w: w | {"blocks.1.ffn.0.bias": torch.zeros(2)}, "blocks.1.ffn.0.bias is (2,); expected (64,)"),
        (lambda w: {k: v for k, v in w.items() if not k.startswith("head")}, "not a Wan2.1"),
        (lambda w: w | {"patch_embedding.weight": torch.zeros(96, 16, 1, 2, 2)}, "multiple of 128"),
    ],
)
def test_another_model_is_refused_before_it_is_read(tmp_path: Path, change: object, words: str) -> None:
    save_file(change(weights()), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=re.escape(words)):
        wan.load_transformer(tmp_path / "other.safetensors")


def test_a_folder_whose_config_is_not_wans_is_refused(stock: Path, tmp_path: Path) -> None:
    wan.load_transformer(stock).save_pretrained(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config | {"eps": 1e-5}))
    with pytest.raises(ValueError, match="eps"):
        wan.load_transformer(tmp_path / "folder")


def test_the_widened_model_equals_the_stock_model_bit_for_bit(stock: Path) -> None:
    inputs, text = arguments(), arguments()[2]
    with torch.no_grad():
        before = output(wan.load_transformer(stock), (inputs[0][:, :16], inputs[1], text))
        model = wan.prepare_transformer(stock, "pano")
        assert torch.equal(output(model, inputs), before)
    assert model.config.in_channels == model.patch_embedding.in_channels == 33


def test_widening_again_changes_nothing_and_other_widths_are_refused(stock: Path) -> None:
    model = wan.prepare_transformer(stock, "pano")
    before = model.patch_embedding
    wan.inflate_patch_embedding(model)
    assert model.patch_embedding is before
    model.patch_embedding = torch.nn.Conv3d(36, 128, (1, 2, 2), (1, 2, 2))
    with pytest.raises(ValueError, match="36 channels; expected 16 or 33"):
        wan.inflate_patch_embedding(model)


def test_perspective_attention_equals_four_attentions_at_their_places_on_the_map(
    model33: wan.WanTransformer3DModel,
) -> None:
    t, side = 2, 4
    wan.set_perspective(model33, "perspective")
    attention, tokens = model33.blocks[0].attn1, torch.randn(2, t * side * side, 128)
    rotary = model33.rope(torch.zeros(2, 33, t, 2 * side, 2 * side))
    with torch.no_grad():
        got = attention(tokens, None, None, rotary).reshape(2, t, side, side, 128)
        for rows in (slice(0, 2), slice(2, 4)):
            for columns in (slice(0, 2), slice(2, 4)):
                place = (slice(None), slice(None), rows, columns)
                own = tuple(r.reshape(1, t, side, side, -1)[place].reshape(1, 8, 1, -1) for r in rotary[:2])
                part = tokens.reshape(2, t, side, side, 128)[place].reshape(2, 8, 128)
                alone = WanAttnProcessor()(attention, part, rotary_emb=own)
                assert (got[place].reshape(2, 8, 128) - alone).abs().max() < 1e-5


def test_in_perspective_blocks_a_subregion_hears_nothing_of_the_others(model33: wan.WanTransformer3DModel) -> None:
    x, timestep, text = arguments()
    other = x.clone()
    other[..., :4, 4:] += 1
    changed = {}
    with torch.no_grad():
        for schedule in ("perspective", "alternating"):
            wan.set_perspective(model33, schedule)
            changed[schedule] = (output(model33, (x, timestep, text)) != output(model33, (other, timestep, text)))[0, 0]
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:4, 4:] = True
    assert bool(changed["perspective"][:, inside].all())
    assert not bool(changed["perspective"][:, ~inside].any())
    assert bool(changed["alternating"].all())


def test_the_blocks_that_are_set_can_be_read_back_and_set_again(model33: wan.WanTransformer3DModel) -> None:
    for schedule, blocks in (("alternating", (1,)), ("0,2", (0, 2)), ("pano", ())):
        assert wan.set_perspective(model33, schedule) == blocks
        assert wan.set_blocks(model33) == wan.set_blocks(copy.deepcopy(model33)) == blocks
    assert len(model33.rope._forward_hooks) == 1


@pytest.mark.parametrize(("size", "words"), [((2, 8, 4), "square"), ((1, 6, 6), "even sides")])
def test_a_latent_that_is_no_map_is_refused(
    model33: wan.WanTransformer3DModel, size: tuple[int, int, int], words: str
) -> None:
    wan.set_perspective(model33, "alternating")
    with pytest.raises(ValueError, match=words):
        output(model33, arguments(size=size))


def test_gradient_checkpointing_gives_the_same_gradients_even_with_another_size_in_between(
    model33: wan.WanTransformer3DModel,
) -> None:
    wan.set_perspective(model33, "alternating")
    gradients = []
    for checkpointing in (False, True):
        model33.zero_grad()
        if checkpointing:
            model33.enable_gradient_checkpointing()
        loss = output(model33, arguments(size=(1, 8, 8))).square().mean()
        output(model33, arguments(size=(4, 4, 4)))  # as many tokens on another grid
        loss.backward()
        gradients.append([parameter.grad for parameter in model33.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    save_file(weights(33), path, metadata=viewpoint_metadata((1,), 33))
    assert wan.set_blocks(wan.prepare_transformer(path, "alternating")) == (1,)
    with pytest.raises(ValueError, match="trained with the Perspective blocks 1;.*asks for 0,1,2"):
        wan.prepare_transformer(path, "perspective")


def test_text_is_padded_with_zeros_to_512_and_no_further() -> None:
    text = wan.pad_text([torch.ones(3, 8), torch.ones(512, 8)])
    assert text.shape == (2, 512, 8)
    assert text[0].sum() == 24
    with pytest.raises(ValueError, match="513 tokens"):
        wan.pad_text([torch.ones(513, 8)])


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> wan_vae.AutoencoderKLWan:
    """A tiny VAE."""
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    write_vae(path)
    return wan_vae.load_vae(path)


def test_a_vae_loads_the_same_from_a_diffusers_folder(vae: wan_vae.AutoencoderKLWan, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    again = wan_vae.load_vae(tmp_path / "pipeline").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in vae.state_dict().items())
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_a_clip_is_encoded_causally_so_its_first_frame_alone_gives_its_first_latent(
    vae: wan_vae.AutoencoderKLWan,
) -> None:
    video = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = wan_vae.encode_video(vae, video)
    assert latent.shape == (1, 16, 2, 4, 4)
    assert (wan_vae.encode_video(vae, video[:, :, :1]) - latent[:, :, :1]).abs().max() < 1e-5
    assert wan_vae.decode_latent(vae, latent).shape == video.shape


@pytest.mark.parametrize("shape", [(1, 3, 4, 32, 32), (1, 3, 5, 32, 30), (1, 4, 5, 32, 32), (3, 5, 32, 32)])
def test_a_video_that_the_vae_would_cut_is_refused(vae: wan_vae.AutoencoderKLWan, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"4k \+ 1|expected \(B, 3, T, H, W\)"):
        wan_vae.encode_video(vae, torch.zeros(shape))


def test_a_transformer_given_as_vae_is_refused(stock: Path) -> None:
    with pytest.raises(ValueError, match="not a Wan2.1 VAE"):
        wan_vae.load_vae(stock)


def test_a_fresh_lora_changes_nothing_and_trains_nothing_else(stock: Path) -> None:
    model = wan.prepare_transformer(stock, "alternating")
    with torch.no_grad():
        before = output(model, arguments())
        lora.add_lora(model, rank=4)
        assert torch.equal(output(model, arguments()), before)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trains)
    modules = {name.partition(".lora_")[0] for name in trains}
    assert len(modules) == 3 * 10 + 1
    assert "patch_embedding" in modules
    assert "patch_embedding.lora_A.default.weight" not in trains


def test_the_patch_embeddings_lora_trains_it_in_full(stock: Path) -> None:
    full, adapted = (wan.prepare_transformer(stock, "alternating") for _ in range(2))
    lora.add_lora(adapted, rank=4, alpha=16)
    for model in (full, adapted):
        output(model, arguments()).square().mean().backward()
    gradient = adapted.patch_embedding.lora_B[lora.ADAPTER].weight.grad
    wanted = full.patch_embedding.weight.grad.flatten(1)
    assert gradient.flatten(1).shape == wanted.shape == (128, 132)
    assert (gradient.flatten(1) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_lora_trains_in_float32_beside_a_bfloat16_model(stock: Path) -> None:
    model = wan.prepare_transformer(stock, "alternating", dtype=torch.bfloat16)
    lora.add_lora(model, rank=4)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if ".lora_" not in name} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        output(model, arguments()).float().square().mean().backward()
    assert bool(model.patch_embedding.lora_B[lora.ADAPTER].weight.grad.any())


def test_a_lora_needs_a_widened_model_and_a_rank(stock: Path) -> None:
    with pytest.raises(ValueError, match="16 channels; widen it to 33"):
        lora.add_lora(wan.load_transformer(stock), rank=4)
    with pytest.raises(ValueError, match="rank is 0"):
        lora.add_lora(wan.load_transformer(stock), rank=0)


def test_a_saved_diffusers_folder_keeps_the_weights(model33: wan.WanTransformer3DModel, tmp_path: Path) -> None:
    model33.save_pretrained(tmp_path / "folder")
    stored, _ = read_checkpoint(tmp_path / "folder")
    assert stored.keys() == weights(33).keys()
    assert load_file(next((tmp_path / "folder").glob("*.safetensors"))).keys() == model33.state_dict().keys()
