"""YAML, with a loader that takes no longer than the text is long."""

from __future__ import annotations

from functools import cache
from typing import Any

from carrot.serialization.libraries import import_library

# More merge keys ("<<") than any document written by hand has, and more digits in base 60.
_MOST_MERGED, _MOST_SEXAGESIMAL = 10_000, 20


def to_yaml(data: Any) -> Any:
    """*data* as text."""
    yaml = import_library("yaml", "yaml")
    return yaml.dump(data, Dumper=_dumper(yaml))


def from_yaml(text: Any) -> Any:
    """The data in *text*."""
    yaml = import_library("yaml", "yaml")
    return yaml.load(text, Loader=_loader(yaml))


@cache
def _dumper(yaml: Any) -> type:
    """The safe dumper, which writes nothing that the safe loader can't read."""

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # only known when it is imported
        def represent_mapping(self, tag: str, mapping: Any, flow_style: Any = None) -> Any:
            if any(isinstance(key, tuple) for key in mapping):
                raise yaml.representer.RepresenterError("a tuple can't be a key in YAML")
            return super().represent_mapping(tag, mapping, flow_style)

    return Dumper


@cache
def _loader(yaml: Any) -> type:
    """The safe loader, in time linear in the text.

    PyYAML's takes minutes for a megabyte of a number in base 60, and older ones also for a few
    hundred bytes of mappings that merge each other.
    """

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # only known when it is imported
        merged = 0

        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                self._count_merged(node)
            super().flatten_mapping(node)

        def _count_merged(self, node: Any) -> None:
            for key, value in node.value:
                if key.tag != "tag:yaml.org,2002:merge":
                    continue
                is_list = isinstance(value, yaml.SequenceNode)
                for source in value.value if is_list else [value]:
                    if isinstance(source, yaml.MappingNode):
                        self.flatten_mapping(source)
                        self.merged += len(source.value)
                    self.merged += 1
                    if self.merged > _MOST_MERGED:
                        raise _too_much("more merged keys ('<<') than 10 000", node)

        def construct_scalar(self, node: Any) -> Any:
            if node.tag == "tag:yaml.org,2002:int" and node.value.count(":") > _MOST_SEXAGESIMAL:
                raise _too_much("a number of more than 20 digits in base 60", node)
            return super().construct_scalar(node)

    def _too_much(what: str, node: Any) -> Exception:
        error: Exception = yaml.constructor.ConstructorError(
            None, None, f"found {what}", node.start_mark
        )
        return error

    return Loader
