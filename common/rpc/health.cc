#include "common/rpc/health.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/errors.h"
#include "common/rpc/raw_call.h"

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

// One Watch. Says the latest status, never the same twice.
class Health::Watcher final : public grpc::ServerWriteReactor<ByteBuffer> {
 public:
  explicit Watcher(std::string service) : service_(std::move(service)) {}
  const std::string& service() const { return service_; }
  void KeepAlive(std::shared_ptr<Watcher> self) { self_ = std::move(self); }

  void Say(Status status) {
    absl::MutexLock lock(&mu_);
    wanted_ = status;
    Advance();
  }
  // Once the last status is on its way.
  void End(const grpc::Status& status) {
    absl::MutexLock lock(&mu_);
    if (!end_) end_ = status;
    Advance();
  }
  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!ok) {
      if (!end_) end_ = grpc::Status::CANCELLED;
      sent_ = wanted_;
    }
    Advance();
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override { auto last = std::move(self_); }

 private:
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (sent_ != wanted_) {
      sent_ = wanted_;
      response_ = Response(*wanted_);
      writing_ = true;
      StartWrite(&response_);
    } else if (end_) {
      finished_ = true;
      Finish(*end_);
    }
  }

  const std::string service_;
  std::shared_ptr<Watcher> self_;  // until OnDone
  absl::Mutex mu_;
  std::optional<Status> wanted_ ABSL_GUARDED_BY(mu_), sent_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  ByteBuffer response_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

Health::Health() = default;
Health::~Health() = default;

Health::Status Health::StatusOf(const std::string& service) const {
  const auto found = serving_.find(service);
  if (found == serving_.end()) return HealthCheckResponse::SERVICE_UNKNOWN;
  return found->second && !closed_ ? HealthCheckResponse::SERVING
                                   : HealthCheckResponse::NOT_SERVING;
}

std::vector<std::shared_ptr<Health::Watcher>> Health::Watchers() {
  std::vector<std::shared_ptr<Watcher>> out;
  std::vector<std::weak_ptr<Watcher>> alive;
  for (const auto& weak : watchers_) {
    if (auto watcher = weak.lock()) {
      alive.push_back(watcher);
      out.push_back(std::move(watcher));
    }
  }
  watchers_ = std::move(alive);
  look_at_ = std::max<size_t>(64, 2 * watchers_.size());
  return out;
}

void Health::Set(const std::string& service, bool serving) {
  std::vector<std::shared_ptr<Watcher>> watchers;  // let go of outside the lock
  absl::MutexLock lock(&mu_);
  serving_[service] = serving;
  watchers = Watchers();
  for (const auto& watcher : watchers) {
    if (watcher->service() == service) watcher->Say(StatusOf(service));
  }
}

void Health::Close() {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    absl::MutexLock lock(&mu_);
    closed_ = true;
    watchers = Watchers();
    for (const auto& watcher : watchers) watcher->Say(StatusOf(watcher->service()));
  }
  for (const auto& watcher : watchers) watcher->End(ToGrpc(errors::ShuttingDown()));
}

grpc::ServerUnaryReactor* Health::Check(grpc::CallbackServerContext*, const ByteBuffer* request,
                                        ByteBuffer* response) {
  const auto service = ServiceOf(*request);
  if (!service.ok()) return new Ended<grpc::ServerUnaryReactor>(service.status());
  absl::MutexLock lock(&mu_);
  const Status status = StatusOf(*service);
  if (status == HealthCheckResponse::SERVICE_UNKNOWN)
    return new Ended<grpc::ServerUnaryReactor>(errors::ServiceUnknown());
  *response = Response(status);
  return new Ended<grpc::ServerUnaryReactor>(absl::OkStatus());
}

grpc::ServerWriteReactor<ByteBuffer>* Health::Watch(grpc::CallbackServerContext*,
                                                    const ByteBuffer* request) {
  const auto service = ServiceOf(*request);
  if (!service.ok()) return new Ended<grpc::ServerWriteReactor<ByteBuffer>>(service.status());
  auto watcher = std::make_shared<Watcher>(*service);
  watcher->KeepAlive(watcher);
  bool closed;
  std::vector<std::shared_ptr<Watcher>> others;  // let go of outside the lock
  {
    absl::MutexLock lock(&mu_);
    closed = closed_;
    if (watchers_.size() >= look_at_) others = Watchers();
    watchers_.push_back(watcher);
    watcher->Say(StatusOf(watcher->service()));
  }
  if (closed) watcher->End(ToGrpc(errors::ShuttingDown()));
  return watcher.get();
}

}  // namespace chord::rpc
