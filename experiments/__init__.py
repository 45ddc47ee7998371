"""Studies: what is trained and measured, and the pages of docs/ that show it.

They are run from a checkout and are not installed with the package.
"""
