"""Compiled kernels, built when kprime is installed; where they are not, transformers' own serve."""
