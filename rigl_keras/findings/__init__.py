"""Analyses of saved runs."""
