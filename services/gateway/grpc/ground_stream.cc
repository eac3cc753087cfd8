#include <deque>

#include "absl/synchronization/mutex.h"
#include "services/gateway/grpc/ground_call.h"

namespace chord::gateway {
namespace {

// Text that piles up while the client reads goes as one event, before the objects in it.
class GroundStreamCall final : public RequestCall<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  GroundStreamCall(const EndpointDeps& deps, grpc::CallbackServerContext* context,
                   const grpc::ByteBuffer* request)
      : RequestCall(deps, context, request, obs::Method::kGroundStream) {}

  void OnWriteDone(bool ok) override {
    if (!ok) CancelWork(errors::Cancelled());
    absl::MutexLock lock(&mu_);
    writing_ = false;
    WriteNext();
  }

 private:
  void Observe(GroundInput& input) override {
    input.on_delta = [this](absl::string_view text) {
      absl::MutexLock lock(&mu_);
      text_.append(text.data(), text.size());
      WriteNext();
    };
    input.on_object = [this](const GroundObject& object) {
      v1::GroundEvent event;
      *event.mutable_object() = ToProto(object);
      absl::MutexLock lock(&mu_);
      events_.push_back(rpc::SerializeRaw(event));
      WriteNext();
    };
  }

  void OnEnd(const absl::Status& status) override {
    ReportEnd(status);
    absl::MutexLock lock(&mu_);
    if (status.ok()) {
      v1::GroundEvent event;
      *event.mutable_response() = ToProto(result());
      events_.push_back(rpc::SerializeRaw(event));
    } else {
      text_.clear();
      events_.clear();
    }
    end_ = rpc::ToGrpc(status, id_);
    WriteNext();
  }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (!text_.empty()) {
      v1::GroundEvent event;
      event.set_text_delta(std::exchange(text_, {}));
      event_ = rpc::SerializeRaw(event);
    } else if (!events_.empty()) {
      event_ = std::move(events_.front());
      events_.pop_front();
    } else {
      if (end_) {
        finished_ = true;
        Finish(*end_);
      }
      return;
    }
    writing_ = true;
    StartWrite(&event_);
  }

  absl::Mutex mu_;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::string text_ ABSL_GUARDED_BY(mu_);
  std::deque<grpc::ByteBuffer> events_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  grpc::ByteBuffer event_ ABSL_GUARDED_BY(mu_);  // being written
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGroundStream(const EndpointDeps& deps,
                                                              grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request) {
  return rpc::StartCall<GroundStreamCall>(nullptr, deps, context, request);
}

}  // namespace chord::gateway
