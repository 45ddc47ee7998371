"""Kernels and their masks: where they are, how many weights remain, which ones."""
