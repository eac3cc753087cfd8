// The cost of an untrusted message, before it is parsed: a field of two bytes on the wire takes
// some hundred in memory, also an unknown one, so that 20 MiB would become a GiB.
#pragma once

#include <google/protobuf/descriptor.h>
#include <grpcpp/support/byte_buffer.h>

namespace chord::rpc {

enum class FieldCount { kFew, kTooMany, kMalformed };

// Counts the fields of a serialized `type` as a parser would meet them: those of the messages in it
// too, and those that are not known; stops after `limit`. Takes no memory of its own.
FieldCount CountFields(grpc::ByteBuffer bytes, const google::protobuf::Descriptor* type, int limit);

// How often the field `number` stands in the outermost message; 0 when that is malformed.
int CountField(grpc::ByteBuffer bytes, int number);

}  // namespace chord::rpc
