"""The embedded toy world: scenes, their renderer and captions, prompt files, and small checkpoints
of every model, which `mini.training` trains."""
