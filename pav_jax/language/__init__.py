"""Language models: loading, sampling, chat templates, LoRA and quantization."""
