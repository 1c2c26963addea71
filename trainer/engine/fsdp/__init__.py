"""The engine that torch's own fully sharded data parallelism drives (FSDP2); nothing here imports `deepspeed`."""
