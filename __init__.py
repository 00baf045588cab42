"""ViewPoint panoramic video for ComfyUI. The host is imported only inside the entrypoint."""

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Called by ComfyUI: the extension that lists the nodes."""
    from .nodes import ViewPointExtension

    return ViewPointExtension()
