"""Makes elastic checkpoints: recipe and corpus in, served model out. Never runs in demo or tests."""
