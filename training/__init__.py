"""Makes elastic checkpoints: recipe and corpus in, served model out. Not part of demo or tests."""
