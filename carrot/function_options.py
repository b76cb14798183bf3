"""Options that hold a function: written in a class body, a plain one would become a method."""

from __future__ import annotations

import types
from collections.abc import Iterable


def keep_plain_functions(cls: type, names: Iterable[str]) -> None:
    """Let the options *names* in the body of *cls* stay functions.

    One whose first parameter is ``self`` is meant as a method, and becomes one.
    """
    for name in names:
        function = cls.__dict__.get(name)
        if isinstance(function, types.FunctionType):
            parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
            if parameters[:1] != ("self",):
                setattr(cls, name, staticmethod(function))
