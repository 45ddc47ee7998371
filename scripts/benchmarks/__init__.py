"""The parts of scripts/benchmark.py, each measured in a process of its own."""
