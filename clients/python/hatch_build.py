"""Generates the protobuf modules before hatchling collects the files of a wheel."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtobufBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        sys.path.insert(0, str(pathlib.Path(self.root)))
        try:
            import build_protos

            build_protos.generate()
        finally:
            sys.path.pop(0)
