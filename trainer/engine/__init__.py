"""One optimizer step on a spread model. `deepspeed/` holds the engine that DeepSpeed drives, and alone imports it."""
