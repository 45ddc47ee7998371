"""Keeps a model sparse while it trains, and changes its masks."""
