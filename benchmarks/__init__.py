"""What sparse training costs; `python -m benchmarks.run` measures it.

Run from a checkout, and not installed with the package.
"""
