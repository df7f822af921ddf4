"""ComfyUI custom nodes of pav_jax; ComfyUI reads the names below."""

from .refine_node import RefinePrompt

NODE_CLASS_MAPPINGS = {"PavRefinePrompt": RefinePrompt}
NODE_DISPLAY_NAME_MAPPINGS = {"PavRefinePrompt": "Refine Prompt (pav)"}
WEB_DIRECTORY = "./js"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
