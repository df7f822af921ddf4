"""The node "Refine Prompt (pav)": a prompt in; the rewrite, a negative prompt and a report out."""

from typing import Any

from .rewriters import RefineError, refine_in_process, refine_on_server

MAX_SEED = 2**63 - 1
MODES = ("auto", "on", "off")
KEEP_PROMPT = "use my prompt"
STOP = "stop with an error"
UNITS = ("kept", "missing", "contradicted", "added")  # vocabulary: ignore


class RefinePrompt:
    """Rewrites a prompt for a text-to-video model and shows the rewrite on the node."""

    CATEGORY = "pav"
    DESCRIPTION = "Rewrites a short prompt into the long one that a text-to-video model likes."
    FUNCTION = "refine"
    RETURN_TYPES = ("STRING", "STRING", "STRING")
    RETURN_NAMES = ("refined", "negative", "report")
    OUTPUT_NODE = True  # so that it also runs alone, to look at a rewrite before making a video

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:  # noqa: N802 - ComfyUI's name
        """The widgets and inputs."""
        text = {"multiline": True, "dynamicPrompts": False}
        return {
            "required": {
                "text": ("STRING", text | {"placeholder": "a girl is playing guitar"}),
                "mode": (
                    list(MODES),
                    {"tooltip": "auto leaves long prompts alone; off takes any rewrite"},
                ),
                "seed": ("INT", {"min": 0, "max": MAX_SEED, "control_after_generate": True}),
            },
            "optional": {
                "keep_terms": (
                    "STRING",
                    text | {"tooltip": "terms that must stay as they are, one a line"},
                ),
                "negative_prompt": ("STRING", text | {"tooltip": "`-neg` of the prompt is added"}),
                "fidelity": ("FLOAT", {"default": 0.9, "min": 0.0, "max": 1.0, "step": 0.05}),
                "max_words": ("INT", {"default": 0, "max": 1000, "tooltip": "0: no limit"}),
                "server": (
                    "STRING",
                    {
                        "default": "http://localhost:8000",
                        "tooltip": "of `pav serve`; empty: load the model in ComfyUI's process",
                    },
                ),
                "model": (
                    "STRING",
                    {"tooltip": "one that the server lists, or a path; empty: the default"},
                ),
                "on_failure": ([KEEP_PROMPT, STOP],),
            },
        }

    def refine(
        self,
        text: str,
        mode: str,
        seed: int,
        keep_terms: str = "",
        negative_prompt: str = "",
        fidelity: float = 0.9,
        max_words: int = 0,
        server: str = "http://localhost:8000",
        model: str = "",
        on_failure: str = KEEP_PROMPT,
    ) -> dict[str, Any]:
        """Return ComfyUI's dictionary of what the node shows and its three outputs.

        Raises:
          RefineError: there is no rewrite, and `on_failure` says to stop.
        """
        body: dict[str, Any] = dict(prompt=text, seed=seed, mode=mode, fidelity=fidelity)
        if terms := [term.strip() for term in keep_terms.splitlines() if term.strip()]:
            body["keep"] = terms
        if max_words:
            body["max_words"] = max_words
        try:
            refinement = _refine(server.strip(), model.strip(), body)
        except RefineError as error:
            if on_failure == STOP:
                raise
            refinement = {"refined": text, "reverted": True, "reason": str(error)}
        negatives = [negative_prompt.strip(), refinement.get("negative_prompt", "")]
        outputs = (refinement["refined"], ", ".join(filter(None, negatives)), report(refinement))
        return {"ui": {"refined": [outputs[0]], "report": [outputs[2]]}, "result": outputs}


def _refine(server: str, model: str, body: dict[str, Any]) -> dict[str, Any]:
    if not server:
        return refine_in_process(model, body)
    return refine_on_server(server, body | ({"model": model} if model else {}))


def report(refinement: dict[str, Any]) -> str:
    """What became of the prompt, a line each: kept, missing, contradicted and added units."""
    lines = []
    if reason := refinement.get("reason"):
        lines.append(f"unchanged: {reason}")
    if note := refinement.get("note"):
        lines.append(note)
    faith = refinement.get("faith")
    if isinstance(faith, (int, float)) and faith == faith:  # not NaN
        lines.append(f"faithfulness: {faith:.2f}")
    for name in UNITS:
        if units := refinement.get(name):
            lines.append(f"{name}: {', '.join(units)}")
    return "\n".join(lines)
