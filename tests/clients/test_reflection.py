"""Server reflection as stock tools use it: grpc_reflection's client, and the older v1alpha by hand."""

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICES = {"chord.v1.Grounding", "chord.v1.Images", "chord.v1.Admin", "grpc.health.v1.Health"}


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc_address) as open_channel:
        yield open_channel


def call(channel, version):
    """The one call of reflection; its messages are the same in both versions."""
    return channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)


def answers(channel, version, **request):
    return list(call(channel, version)(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=10))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_ListsTheServices(channel, version):
    (answer,) = answers(channel, version, list_services="")
    assert SERVICES <= {service.name for service in answer.list_services_response.service}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("request_fields", [
    {"file_containing_symbol": "chord.v1.Grounding"}, {"file_containing_symbol": "chord.v1.Grounding.Ground"},
    {"file_containing_symbol": "chord.v1.GroundRequest"}, {"file_by_filename": "chord/v1/grounding.proto"}])
def test_DescribesWhatItLists(channel, version, request_fields):
    (answer,) = answers(channel, version, **request_fields)
    files = [descriptor_pb2.FileDescriptorProto.FromString(data)
             for data in answer.file_descriptor_response.file_descriptor_proto]
    assert "chord/v1/grounding.proto" in [file.name for file in files]


def test_EveryListedServiceIsDescribed(channel):
    (listed,) = answers(channel, "v1", list_services="")
    for service in listed.list_services_response.service:
        (answer,) = answers(channel, "v1", file_containing_symbol=service.name)
        assert answer.HasField("file_descriptor_response"), service.name


def test_SeveralRequestsOnOneStream(channel):
    requests = [reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
                reflection_pb2.ServerReflectionRequest(file_by_filename="chord/v1/images.proto")]
    first, second, third = call(channel, "v1alpha")(iter(requests), timeout=10)
    assert first.HasField("list_services_response")
    assert second.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert third.HasField("file_descriptor_response")


def test_AStockClientCallsWithNothingButReflection(channel, server):
    from chord_server import demo

    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("chord.v1.Grounding")
    method = service.methods_by_name["Ground"]
    request_type = message_factory.GetMessageClass(method.input_type)
    response_type = message_factory.GetMessageClass(method.output_type)
    ground = channel.unary_unary("/chord.v1.Grounding/Ground", request_serializer=request_type.SerializeToString,
                                 response_deserializer=response_type.FromString)
    image, prompt, _ = demo()[0]
    assert ground(request_type(image=image, prompt=prompt), timeout=60).objects[0].label == "tractor"
