"""Checkpoint files: safetensors, PEFT, GGUF, Orbax, the Hub, conversion of published files."""
