#include "common/rpc/health.h"

#include <utility>

#include "absl/status/statusor.h"
#include "common/base/errors.h"
#include "common/rpc/raw_message.h"
#include "common/rpc/watch_call.h"

namespace chord::rpc {

using grpc::ByteBuffer;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

namespace {

constexpr size_t kMaxRequestBytes = 1 << 10;
constexpr int kMaxRequestFields = 16;

absl::StatusOr<std::string> ServiceOf(ByteBuffer bytes) {
  HealthCheckRequest request;
  if (!bytes.Valid() || bytes.Length() > kMaxRequestBytes ||
      ParseRaw(&bytes, kMaxRequestFields, &request) != FieldCount::kFew) {
    return errors::BodyMalformed("a grpc.health.v1.HealthCheckRequest of at most 1 KiB");
  }
  return request.service();
}

ByteBuffer Response(HealthCheckResponse::ServingStatus status) {
  HealthCheckResponse response;
  response.set_status(status);
  return SerializeRaw(response);
}

}  // namespace

// One Watch: sends the status whenever it changes.
class Health::Watcher final : public WatchCall<ByteBuffer> {
 public:
  Watcher(Health& health, std::string service, Status first)
      : WatchCall(Response(first)), health_(health), service_(std::move(service)), sent_(first) {}

  const std::string& service() const { return service_; }
  // Under the lock of Health, so that statuses arrive in order.
  void Update(Status status) {
    absl::MutexLock lock(&mu_);
    if (std::exchange(sent_, status) != status) Publish(Response(status));
  }

 private:
  void Begin() override {
    WatchCall::Begin();
    health_.Update(*this);  // the status may have changed since the watcher was made
  }

  Health& health_;
  const std::string service_;
  absl::Mutex mu_;
  Status sent_ ABSL_GUARDED_BY(mu_);
};

Health::Health() = default;
Health::~Health() = default;

Health::Status Health::StatusOf(const std::string& service) const {
  const auto found = serving_.find(service);
  if (found == serving_.end()) return HealthCheckResponse::SERVICE_UNKNOWN;
  return found->second && !closed_ ? HealthCheckResponse::SERVING
                                   : HealthCheckResponse::NOT_SERVING;
}

void Health::Update(Watcher& watcher) {
  absl::MutexLock lock(&mu_);
  watcher.Update(StatusOf(watcher.service()));
}

void Health::UpdateWatchers() {
  for (const auto& call : watchers_.Open()) {
    auto& watcher = static_cast<Watcher&>(*call);
    watcher.Update(StatusOf(watcher.service()));
  }
}

void Health::Set(const std::string& service, bool serving) {
  absl::MutexLock lock(&mu_);
  serving_[service] = serving;
  UpdateWatchers();
}

void Health::Close() {
  {
    absl::MutexLock lock(&mu_);
    closed_ = true;
    UpdateWatchers();
  }
  watchers_.Shutdown(errors::ShuttingDown());
}

grpc::ServerUnaryReactor* Health::Check(grpc::CallbackServerContext*, const ByteBuffer* request,
                                        ByteBuffer* response) {
  const auto service = ServiceOf(*request);
  if (!service.ok()) return EndCall<grpc::ServerUnaryReactor>(service.status());
  const Status status = [&] {
    absl::MutexLock lock(&mu_);
    return StatusOf(*service);
  }();
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    return EndCall<grpc::ServerUnaryReactor>(errors::ServiceUnknown());
  }
  *response = Response(status);
  return EndCall<grpc::ServerUnaryReactor>(absl::OkStatus());
}

grpc::ServerWriteReactor<ByteBuffer>* Health::Watch(grpc::CallbackServerContext*,
                                                    const ByteBuffer* request) {
  const auto service = ServiceOf(*request);
  if (!service.ok()) return EndCall<grpc::ServerWriteReactor<ByteBuffer>>(service.status());
  const Status first = [&] {
    absl::MutexLock lock(&mu_);
    return StatusOf(*service);
  }();
  return StartCall<Watcher>(&watchers_, *this, *service, first);
}

}  // namespace chord::rpc
