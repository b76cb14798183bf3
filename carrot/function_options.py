"""Options that hold a function: written in a class body, a plain one would become a method."""

from __future__ import annotations

import types
from typing import Any, ClassVar


class FunctionOptions:
    """A class whose subclasses may have functions for options in their body.

    :cvar function_options: the names of these options. A function there stays as it is, unless its
        first parameter is ``self``: then it is meant as a method.
    """

    function_options: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.function_options:
            function = cls.__dict__.get(name)
            if isinstance(function, types.FunctionType):
                parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
                if parameters[:1] != ("self",):
                    setattr(cls, name, staticmethod(function))
