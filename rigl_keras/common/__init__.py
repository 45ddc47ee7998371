"""Checks of arguments, named random draws, tables as text: for every package."""
