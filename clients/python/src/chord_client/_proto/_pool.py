"""The descriptor pool of this package, and the classes that are made from it."""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(resources.files(__package__).joinpath("descriptors.binpb").read_bytes())
    for file in files.file:  # protoc writes a file after those that it imports
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _load()


def define(proto: str, namespace: dict[str, Any]) -> FileDescriptor:
    """Puts the message classes and enum values of one .proto file into a module's namespace."""
    file = _POOL.FindFileByName(proto)
    for name, message in file.message_types_by_name.items():
        namespace[name] = message_factory.GetMessageClass(message)
    for enum in file.enum_types_by_name.values():
        for value in enum.values:
            namespace[value.name] = value.number
    return file
