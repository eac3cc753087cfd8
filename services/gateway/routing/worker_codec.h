// Worker requests and answers between plain data and the internal protocol.
#pragma once

#include "chord/internal/v1/decode.pb.h"
#include "chord/internal/v1/encode.pb.h"
#include "services/gateway/routing/worker_request.h"

namespace chord::gateway {

internal::v1::DecodeRequest ToDecodeRequest(const WorkerRequest& request);
internal::v1::EncodeHeader ToEncodeHeader(const WorkerRequest& request);
// Times that make no sense are zero.
WorkerAnswer FromProto(const internal::v1::DecodeDone& done);
void AddEncodeTimes(const internal::v1::EncodeResponse& response, WorkerAnswer& answer);

}  // namespace chord::gateway
