// Messages of calls that receive bytes, so that untrusted input is checked before it is parsed.
#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include "common/rpc/field_count.h"

namespace chord::rpc {

// kFew: `message` is what `bytes` held, which are consumed. Otherwise it was not parsed, or not
// to its end.
template <typename Message>
FieldCount ParseRaw(grpc::ByteBuffer* bytes, int max_fields, Message* message) {
  const FieldCount fields = CountFields(*bytes, Message::descriptor(), max_fields);
  if (fields != FieldCount::kFew) return fields;
  return grpc::SerializationTraits<Message>::Deserialize(bytes, message).ok()
             ? FieldCount::kFew
             : FieldCount::kMalformed;
}

template <typename Message>
grpc::ByteBuffer SerializeRaw(const Message& message) {
  grpc::ByteBuffer out;
  bool own = false;
  (void)grpc::SerializationTraits<Message>::Serialize(message, &out, &own);
  return out;
}

}  // namespace chord::rpc
