#include "services/gateway/grpc/call_support.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "common/base/limits.h"
#include "common/text/utf8.h"

namespace chord::gateway {
namespace {

// Why a message that has few enough fields does not parse, told by looking at its fields again.
absl::Status WhyUnparsable(grpc::ByteBuffer bytes) {
  using google::protobuf::internal::WireFormatLite;
  const absl::Status malformed = errors::BodyMalformed("a chord.v1.GroundRequest");
  grpc::ProtoBufferReader reader(&bytes);
  google::protobuf::io::CodedInputStream in(&reader);
  while (const uint32_t tag = in.ReadTag()) {
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag)) return malformed;
      continue;
    }
    const int field = WireFormatLite::GetTagFieldNumber(tag);
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return malformed;
    if (field == v1::GroundRequest::kPromptFieldNumber && length <= (1 << 20)) {
      std::string text;
      if (!in.ReadString(&text, static_cast<int>(length))) return malformed;
      if (!text::IsUtf8(text)) return errors::PromptNotUtf8();
    } else if (length > (1u << 30) || !in.Skip(static_cast<int>(length))) {
      return malformed;
    }
  }
  return malformed;
}

bool IsRequestId(absl::string_view id) {
  return id.size() >= 8 && id.size() <= 64 && std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' ||
                  c == '-';
         });
}

}  // namespace

absl::Status ParseGroundRequest(grpc::ByteBuffer* bytes, v1::GroundRequest* request) {
  grpc::ByteBuffer again = *bytes;  // shares the slices
  absl::Status status = ParseAs(bytes, "GroundRequest", request);
  if (status.ok() || rpc::CountFields(again, v1::GroundRequest::descriptor(), kMaxFields) !=
                         rpc::FieldCount::kFew) {
    return status;
  }
  return WhyUnparsable(std::move(again));
}

std::string Announce(grpc::CallbackServerContext* context, const std::string& id) {
  std::string client_id;
  const auto& metadata = context->client_metadata();
  if (const auto found = metadata.find("x-request-id"); found != metadata.end()) {
    const absl::string_view value(found->second.data(), found->second.size());
    if (IsRequestId(value)) client_id = std::string(value);
  }
  context->AddInitialMetadata("x-request-id", id);
  if (!client_id.empty()) context->AddInitialMetadata("x-client-request-id", client_id);
  return client_id;
}

absl::StatusOr<Client> IdentifyCaller(const EndpointDeps& deps,
                                      const grpc::CallbackServerContext& context) {
  Credentials credentials;
  credentials.peer = ClientOfGrpcPeer(context.peer());
  if (deps.access == nullptr || credentials.peer == kLocalClient)
    return Client{credentials.peer, ""};
  for (const auto& [key, value] : context.client_metadata()) {
    const absl::string_view name(key.data(), key.size());
    const std::string text(value.data(), value.size());
    if (name == "authorization") credentials.authorization = text;
    if (name == "x-api-key") credentials.api_key = text;
    if (name == "x-forwarded-for") {
      absl::StrAppend(&credentials.forwarded_for, credentials.forwarded_for.empty() ? "" : ",",
                      text);
    }
  }
  return deps.access->Identify(credentials);
}

v1::Error ErrorProto(const absl::Status& status, absl::string_view request_id) {
  const absl::Status shown = ForClient(status);
  v1::Error out;
  out.set_code(static_cast<int>(shown.code()));
  out.set_reason(ErrorReason(shown));
  out.set_message(std::string(shown.message()));
  out.set_request_id(std::string(request_id));
  out.set_retry_after_seconds(absl::ToDoubleSeconds(RetryAfter(shown)));
  return out;
}

std::string Echo(absl::string_view tag) {
  return std::string(text::CutUtf8(tag, limits::kMaxTagBytes));
}

}  // namespace chord::gateway
