"""YAML as people write it: blocks for what has several lines, keys in the order that explains."""

from __future__ import annotations

from typing import Any


def as_yaml(value: dict[str, Any]) -> str:
    """`value` as a YAML document."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """With blocks."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
