"""Where the stock model files that the workflows load are published. The editor offers them where they are missing."""

from typing import NamedTuple

WAN = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
REAL_ESRGAN = "https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main"


class StockFile(NamedTuple):
    """A file, the folder of ComfyUI's `models` that it belongs into, and its address."""

    name: str
    directory: str
    url: str


VAE = StockFile("wan_2.1_vae.safetensors", "vae", f"{WAN}/vae/wan_2.1_vae.safetensors")
TEXT_ENCODER = StockFile(
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "text_encoders",
    f"{WAN}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
)
UNET = StockFile(
    "wan2.1_t2v_1.3B_bf16.safetensors",
    "diffusion_models",
    f"{WAN}/diffusion_models/wan2.1_t2v_1.3B_bf16.safetensors",
)
UPSCALER = StockFile("RealESRGAN_x4plus.safetensors", "upscale_models", f"{REAL_ESRGAN}/RealESRGAN_x4plus.safetensors")
VIEWPOINT_UNET = "viewpoint_wan2.1_t2v_1.3B_33ch_bf16.safetensors"  # not published: what is trained from UNET
STOCK_FILES = {file.name: file for file in (VAE, TEXT_ENCODER, UNET, UPSCALER)}


def markdown(file: StockFile) -> str:
    """Where it goes, and a link to it."""
    return f"`{file.directory}/{file.name}` ([download]({file.url}))"
