"""Attributes that Keras leaves alone."""

import collections.abc


class Untracked(collections.abc.Mapping):
    """A mapping that stays as it is, and is copied with its layer.

    Keras would track the arrays in a plain dict.
    """

    def __init__(self, items):
        self._items = tuple(dict(items).items())

    def __getitem__(self, key):
        return dict(self._items)[key]

    def __iter__(self):
        return iter(dict(self._items))

    def __len__(self):
        return len(self._items)

    def __repr__(self):
        return repr(dict(self._items))
