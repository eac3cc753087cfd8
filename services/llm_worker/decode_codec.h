// Decode requests and results to and from the wire.
#pragma once

#include "absl/status/statusor.h"
#include "chord/internal/v1/decode.pb.h"
#include "services/llm_worker/decode_input.h"
#include "services/llm_worker/decode_loop.h"

namespace chord::llm_worker {

// PARAMETER_INVALID, or what frame_codec says of an image's plan. PreparePrompt checks the values.
absl::StatusOr<DecodeInput> FromProto(const internal::v1::DecodeRequest& request);
internal::v1::DecodeDone ToProto(DecodeResult result);

}  // namespace chord::llm_worker
