"""Save and load an encoded prompt, so that the 11 GB text encoder is needed only once."""

from pathlib import Path

import torch
from comfy_api.latest import io
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..viewpoint_core.checkpoint import TEXT_DIM
from .convert import check_prompt
from .host import node_schema
from .host_files import OUTPUT_MARK, chosen_file, file_change, folder, is_file, listed_files, new_file
from .inputs import prefix_input

CATEGORY = "ViewPoint/text"
TENSOR = "text_embedding"
MARK = "viewpoint.text_embedding"
SUFFIX = ".safetensors"
SAVED_IN = "text_embeddings"
ELSEWHERE = (
    f"'ViewPoint: load text embedding' lists the input folder and output/{SAVED_IN}: copy the file into one of them"
)


def check_embedding(embedding: torch.Tensor, name: str) -> None:
    """Raise ValueError unless it is (1, L, 4096) and finite; `name` says where it comes from."""
    check_prompt(embedding, name)
    if len(embedding) != 1:
        raise ValueError(f"{name}: got a batch of {len(embedding)} prompts {tuple(embedding.shape)}; expected one")


def write_embedding(embedding: torch.Tensor, path: Path) -> None:
    """Write (1, L, 4096)."""
    save_file({TENSOR: embedding.contiguous().cpu()}, path, metadata={"format": "pt", MARK: "1"})


def read_embedding(path: Path) -> torch.Tensor:
    """Read (1, L, 4096). Raises ValueError for a damaged file and for any other safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            if TENSOR not in file.keys():
                raise ValueError(f"{path.name} holds {sorted(file.keys())[:4]}; expected a tensor named {TENSOR}")
            embedding = file.get_tensor(TENSOR)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path.name} is damaged or no safetensors file ({error}); save the embedding again"
        ) from error
    check_embedding(embedding, path.name)
    return embedding


def listed_embeddings() -> list[str]:
    """Safetensors files in the input folder, and in the output folder's own for texts with all its subfolders, named
    as the host names them."""
    base = folder("output")
    files = (file for file in (base / SAVED_IN).rglob(f"*{SUFFIX}") if is_file(file))
    saved = sorted(file.relative_to(base).as_posix() for file in files)
    return listed_files("input", {SUFFIX}) + [name + OUTPUT_MARK for name in saved]


class ViewPointSaveTextEmbedding(io.ComfyNode):
    """CONDITIONING -> file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointSaveTextEmbedding",
            search_aliases=["save prompt", "save conditioning", "text embedding", "umt5"],
            display_name="ViewPoint: save text embedding",
            category=CATEGORY,
            description="Save an encoded prompt, so that later runs need no text encoder.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="A prompt, encoded by the Wan text encoder."),
                prefix_input(f"{SAVED_IN}/viewpoint", size=""),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, conditioning: list, filename_prefix: str) -> io.NodeOutput:
        """Check and write."""
        if len(conditioning) != 1:
            raise ValueError(f"the conditioning has {len(conditioning)} entries; expected one encoded prompt")
        embedding, options = conditioning[0]
        kept_out = sorted(key for key, value in options.items() if value is not None and key != "pooled_output")
        if kept_out:
            raise ValueError(
                f"the conditioning carries more than the prompt ({', '.join(kept_out)}), which the file cannot hold; "
                "connect the text encoder's output"
            )
        check_embedding(embedding, "conditioning")
        with new_file(filename_prefix, SUFFIX) as file:
            write_embedding(embedding, file.partial)
        name = Path(file.subfolder, file.path.name)
        text = [name.as_posix()] if name.parts[0] == SAVED_IN else [name.as_posix(), ELSEWHERE]
        return io.NodeOutput(
            ui={"text": text, "files": [{"filename": file.path.name, "subfolder": file.subfolder, "type": "output"}]}
        )


class ViewPointLoadTextEmbedding(io.ComfyNode):
    """File -> CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointLoadTextEmbedding",
            search_aliases=["load prompt", "load conditioning", "text embedding", "umt5"],
            display_name="ViewPoint: load text embedding",
            category=CATEGORY,
            description="Load a prompt saved by 'ViewPoint: save text embedding'.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=listed_embeddings(),
                    tooltip="A .safetensors file in ComfyUI's input folder, or one saved in its output folder.",
                )
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="The encoded prompt.")],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Read and check."""
        return io.NodeOutput([[read_embedding(chosen_file(file, {SUFFIX})), {}]])

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Refuse names outside the host's folders before anything runs. A linked name comes as None, and `execute`
        checks it."""
        try:
            if file is not None:
                chosen_file(file, {SUFFIX})
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> float:
        """Run again when the file changed."""
        return file_change(file, {SUFFIX})


class ViewPointEmptyPrompt(io.ComfyNode):
    """Nothing -> CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointEmptyPrompt",
            search_aliases=["no prompt", "empty conditioning", "zero conditioning", "unconditional"],
            display_name="ViewPoint: empty prompt",
            category=CATEGORY,
            description="No prompt, and no text encoder: for models trained without captions, such as the tiny one.",
            inputs=[],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="What padding is to Wan: one row of zeros.")
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """One row of zeros: attention over several equal rows would give the same."""
        return io.NodeOutput([[torch.zeros(1, 1, TEXT_DIM), {}]])
