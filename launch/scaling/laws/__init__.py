"""Scaling laws as pure classes: form, derivatives, starts and published parameters."""
