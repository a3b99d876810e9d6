"""A module that functions under test read their settings from."""

from types import SimpleNamespace

eps = 1.0
inner = SimpleNamespace(eps=2.0)
