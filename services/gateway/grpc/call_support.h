// What the calls of chord.v1 share: ids, raw messages, and errors inside of messages.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "chord/v1/grounding.pb.h"
#include "common/base/errors.h"
#include "common/rpc/raw_message.h"
#include "services/gateway/endpoint_deps.h"

namespace chord::gateway {

// Fields of one request or other message, those of a newer client included.
inline constexpr int kMaxFields = 100;
inline constexpr size_t kMaxSmallBytes = 64 << 10;  // of a message without an image

// BODY_MALFORMED unless `bytes`, which are consumed, are a message `name` of at most `max_fields`
// fields.
template <typename Message>
absl::Status ParseAs(grpc::ByteBuffer* bytes, absl::string_view name, Message* message,
                     int max_fields = kMaxFields) {
  switch (rpc::ParseRaw(bytes, max_fields, message)) {
    case rpc::FieldCount::kFew:
      return absl::OkStatus();
    case rpc::FieldCount::kTooMany:
      return errors::BodyMalformed(
          absl::StrCat("a chord.v1.", name, " of at most ", max_fields, " fields"));
    default:
      return errors::BodyMalformed(absl::StrCat("a chord.v1.", name, " whose texts are UTF-8"));
  }
}

// As ParseAs; a prompt that is not UTF-8 is PROMPT_NOT_UTF8. (gRPC's own answer to a message that
// it cannot parse has no reason, and a string that is not UTF-8 does not parse.)
absl::Status ParseGroundRequest(grpc::ByteBuffer* bytes, v1::GroundRequest* request);

// Tells the client the id of its call, and its own id beside it when that is well-formed. Returns
// the client's, or "".
std::string Announce(grpc::CallbackServerContext* context, const std::string& id);

// Who calls, and whether they may (Access::Identify). Callers of the local address need no key.
absl::StatusOr<Client> IdentifyCaller(const EndpointDeps& deps,
                                      const grpc::CallbackServerContext& context);

v1::Error ErrorProto(const absl::Status& status, absl::string_view request_id);

// A tag as it is echoed: cut between characters when it is longer than a tag may be.
std::string Echo(absl::string_view tag);

}  // namespace chord::gateway
