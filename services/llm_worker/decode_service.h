// Language: from the wire to the decode loop and back.
#pragma once

#include "chord/internal/v1/decode.grpc.pb.h"
#include "common/base/executor.h"
#include "common/obs/metrics.h"
#include "common/process/call_gate.h"
#include "common/process/loaded_model.h"
#include "services/llm_worker/language_core.h"
#include "services/llm_worker/reservation.h"

namespace chord::llm_worker {

class DecodeService final : public internal::v1::Language::CallbackService {
 public:
  struct Deps {  // not owned; outlive the service
    process::CallGate* gate;
    TicketTable* tickets;
    Executor* executor;                        // tokenizes prompts
    const process::LoadedModel<Core>* loaded;  // not null once the gate is open
    obs::Metrics* metrics;
  };
  explicit DecodeService(const Deps& deps) : deps_(deps) {}

  grpc::ServerWriteReactor<internal::v1::DecodeEvent>* Decode(
      grpc::CallbackServerContext* context, const internal::v1::DecodeRequest* request) override;
  grpc::ServerUnaryReactor* DropImage(grpc::CallbackServerContext* context,
                                      const internal::v1::DropImageRequest* request,
                                      internal::v1::DropImageResponse* response) override;

 private:
  class Call;
  const Deps deps_;
};

}  // namespace chord::llm_worker
