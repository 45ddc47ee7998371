"""Figures of saved results, one module for each kind."""
