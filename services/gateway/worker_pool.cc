#include "services/gateway/worker_pool.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "chord/internal/v1/worker_status.grpc.pb.h"
#include "common/base/errors.h"
#include "common/obs/log.h"
#include "common/rpc/channel.h"
#include "services/gateway/pick.h"

namespace chord::gateway {

namespace v1 = internal::v1;
using State = v1::WorkerState;

namespace {
constexpr int kMissedBeats = 3;
constexpr absl::Duration kFirstRetry = absl::Milliseconds(50);
constexpr absl::Duration kLongestRetry = absl::Seconds(1);
}  // namespace

void WorkerPool::Lease::Release() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->Return(*this);
}

WorkerPool::Lease& WorkerPool::Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  Release();
  pool_ = std::exchange(other.pool_, nullptr);
  vision_ = other.vision_;
  language_ = other.language_;
  cost_ = other.cost_;
  vision_stub_ = other.vision_stub_;
  language_stub_ = other.language_stub_;
  language_name_ = other.language_name_;
  return *this;
}

class WorkerPoolImpl final : public WorkerPool {
 public:
  explicit WorkerPoolImpl(Options options) : options_(std::move(options)) {
    for (const Peer& peer : options_.vision) Add(peer, State::ROLE_VISION, vision_);
    for (const Peer& peer : options_.language) Add(peer, State::ROLE_LANGUAGE, language_);
    thread_ = std::thread([this] { Run(); });
  }

  ~WorkerPoolImpl() override {
    {
      absl::MutexLock lock(&mu_);
      stop_ = true;
      changed_.SignalAll();
      for (auto* workers : {&vision_, &language_}) {
        for (auto& worker : *workers) {
          if (worker->watch != nullptr) worker->watch->Stop();
        }
      }
    }
    thread_.join();
    const auto quiet = [this] {
      return std::all_of(vision_.begin(), vision_.end(), Quiet) &&
             std::all_of(language_.begin(), language_.end(), Quiet);
    };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&quiet));
  }

  absl::StatusOr<Lease> Acquire(const Cost& cost, const CancelToken& cancel,
                                absl::Time until) override {
    // Outlives the lock: its end waits for a callback that wants the lock.
    const auto wake = cancel.OnCancel([this] {
      absl::MutexLock lock(&mu_);
      changed_.SignalAll();
    });
    absl::MutexLock lock(&mu_);
    while (true) {
      if (auto status = cancel.Check(); !status.ok()) return status;
      const uint64_t turn = turn_++;
      const Picked language = PickWorker(Views(language_), options_.fingerprint, turn);
      const Picked vision = PickWorker(Views(vision_), options_.fingerprint, turn);
      const bool found = language.why == Picked::Why::kFound && vision.why == Picked::Why::kFound;
      if (found) return Take(cost, vision.index, language.index);
      absl::Status refusal = Refusal(vision, language);
      const bool waits =
          language.why == Picked::Why::kNoneReady || vision.why == Picked::Why::kNoneReady;
      if (!waits || stop_ || absl::Now() >= until) return refusal;
      // Nobody tells when a beat is missed, and none needs to: only a message makes a worker fit.
      changed_.WaitWithDeadline(&mu_, std::min(until, cancel.deadline()));
    }
  }

  absl::Status Ready() override {
    absl::MutexLock lock(&mu_);
    const Picked vision = PickWorker(Views(vision_), options_.fingerprint, 0);
    const Picked language = PickWorker(Views(language_), options_.fingerprint, 0);
    const auto fit = [](const Picked& picked) {
      return picked.why == Picked::Why::kFound || picked.why == Picked::Why::kFull;
    };
    return fit(vision) && fit(language) ? absl::OkStatus() : Refusal(vision, language);
  }

 private:
  struct Worker;

  // One status stream. Owned by gRPC from StartCall to OnDone, which deletes it.
  class Watch final : public grpc::ClientReadReactor<State> {
   public:
    Watch(WorkerPoolImpl& pool, Worker& worker) : pool_(pool), worker_(worker) {
      context_.set_wait_for_ready(true);
      request_.set_interval_seconds(absl::ToDoubleSeconds(pool.options_.beat));
    }
    void Start() {
      worker_.status->async()->Watch(&context_, &request_, this);
      StartRead(&state_);
      StartCall();
    }
    void Stop() { context_.TryCancel(); }
    void OnReadDone(bool ok) override {
      if (!ok) return;
      pool_.OnState(worker_, state_);
      StartRead(&state_);
    }
    void OnDone(const grpc::Status& status) override {
      pool_.OnWatchEnd(worker_, status);
      delete this;
    }

   private:
    WorkerPoolImpl& pool_;
    Worker& worker_;
    grpc::ClientContext context_;
    v1::WatchRequest request_;
    State state_;
  };

  struct Worker {
    Peer peer;
    State::Role role;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<v1::Vision::Stub> vision;
    std::unique_ptr<v1::Language::Stub> language;
    std::unique_ptr<v1::WorkerStatus::Stub> status;
    Watch* watch = nullptr;  // while a stream is open or opening
    absl::Time next_try = absl::InfinitePast();
    absl::Duration retry = kFirstRetry;
    absl::Time last_beat = absl::InfinitePast();
    State state;
    bool fit = false;  // as last told
    int ours_in_flight = 0;
    int64_t ours_load = 0;
  };
  using Workers = std::vector<std::unique_ptr<Worker>>;

  static bool Quiet(const std::unique_ptr<Worker>& worker) { return worker->watch == nullptr; }

  static void Add(const Peer& peer, State::Role role, Workers& workers) {
    auto worker = std::make_unique<Worker>();
    worker->peer = peer;
    worker->role = role;
    worker->channel = rpc::MakeChannel(peer.address);
    worker->vision = v1::Vision::NewStub(worker->channel);
    worker->language = v1::Language::NewStub(worker->channel);
    worker->status = v1::WorkerStatus::NewStub(worker->channel);
    workers.push_back(std::move(worker));
  }

  bool Alive(const Worker& worker) const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return absl::Now() - worker.last_beat < kMissedBeats * options_.beat;
  }

  std::vector<WorkerView> Views(const Workers& workers) const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    std::vector<WorkerView> out;
    for (const auto& worker : workers) {
      const State& state = worker->state;
      WorkerView view;
      view.alive = Alive(*worker);
      view.ready = state.ready() && state.role() == worker->role;
      view.fingerprint = state.model_fingerprint();
      view.queued = state.requests_queued();
      view.queue_capacity = state.queue_capacity();
      view.in_flight = state.requests_in_flight();
      view.ours_in_flight = worker->ours_in_flight;
      view.load =
          worker->role == State::ROLE_VISION ? state.patches_in_flight() : state.tokens_in_flight();
      view.ours_load = worker->ours_load;
      out.push_back(std::move(view));
    }
    return out;
  }

  static absl::Status Refusal(const Picked& vision, const Picked& language) {
    using Why = Picked::Why;
    if (vision.why == Why::kNoneReady) return errors::WorkerUnavailable("vision");
    if (language.why == Why::kNoneReady) return errors::WorkerUnavailable("language");
    if (vision.why == Why::kMismatch || language.why == Why::kMismatch) {
      return errors::ModelMismatch();
    }
    return errors::Overloaded(absl::Seconds(1));
  }

  Lease Take(const Cost& cost, int vision, int language) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Lease lease;
    lease.pool_ = this;
    lease.cost_ = cost;
    lease.vision_ = static_cast<size_t>(vision);
    lease.language_ = static_cast<size_t>(language);
    Worker& eye = *vision_[lease.vision_];
    Worker& tongue = *language_[lease.language_];
    lease.vision_stub_ = eye.vision.get();
    lease.language_stub_ = tongue.language.get();
    lease.language_name_ = &tongue.peer.name;
    Load(lease, 1);
    return lease;
  }

  void Load(const Lease& lease, int sign) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Worker& eye = *vision_[lease.vision_];
    Worker& tongue = *language_[lease.language_];
    eye.ours_in_flight += sign;
    eye.ours_load += sign * lease.cost_.patches;
    tongue.ours_in_flight += sign;
    tongue.ours_load += sign * lease.cost_.tokens;
  }

  void Return(const Lease& lease) override {
    absl::MutexLock lock(&mu_);
    Load(lease, -1);
  }

  void OnState(Worker& worker, const State& state) {
    absl::MutexLock lock(&mu_);
    worker.last_beat = absl::Now();
    worker.retry = kFirstRetry;
    worker.state = state;
    changed_.SignalAll();
  }

  void OnWatchEnd(Worker& worker, const grpc::Status& status) {
    if (!stop_) {
      obs::Log(obs::LogLevel::kWarning, "worker_stream_ended",
               {{"worker", worker.peer.name},
                {"code", static_cast<int>(status.error_code())},
                {"text", status.error_message()}});
    }
    absl::MutexLock lock(&mu_);
    worker.watch = nullptr;
    worker.last_beat = absl::InfinitePast();
    worker.state.Clear();
    worker.next_try = absl::Now() + worker.retry;
    worker.retry = std::min(2 * worker.retry, kLongestRetry);
    changed_.SignalAll();
  }

  // Opens streams that have ended and tells who is fit.
  void Run() {
    absl::MutexLock lock(&mu_);
    int last_vision = -1, last_language = -1;
    while (!stop_) {
      const absl::Time now = absl::Now();
      absl::Time next = now + options_.beat / 2;  // a missed beat is seen by looking
      for (auto* workers : {&vision_, &language_}) {
        for (auto& worker : *workers) {
          if (worker->watch != nullptr) continue;
          if (now >= worker->next_try) {
            worker->watch = new Watch(*this, *worker);
            worker->watch->Start();
          } else {
            next = std::min(next, worker->next_try);
          }
        }
      }
      const int vision = CountFit(vision_), language = CountFit(language_);
      if (options_.on_change && (vision != last_vision || language != last_language)) {
        last_vision = vision;
        last_language = language;
        mu_.Unlock();
        options_.on_change(vision, language);
        mu_.Lock();
        continue;
      }
      changed_.WaitWithDeadline(&mu_, next);
    }
  }

  int CountFit(const Workers& workers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    int count = 0;
    for (const auto& worker : workers) {
      const bool ready =
          Alive(*worker) && worker->state.ready() && worker->state.role() == worker->role;
      const bool fit = ready && worker->state.model_fingerprint() == options_.fingerprint;
      count += fit;
      if (fit == worker->fit) continue;
      worker->fit = fit;
      obs::Log(fit ? obs::LogLevel::kInfo : obs::LogLevel::kWarning,
               fit ? "worker_ready" : "worker_not_ready",
               {{"worker", worker->peer.name},
                {"role", worker->role == State::ROLE_VISION ? "vision" : "language"},
                {"same_model", !ready || fit}});
    }
    return count;
  }

  const Options options_;
  std::atomic<bool> stop_{false};
  absl::Mutex mu_;
  absl::CondVar changed_;
  Workers vision_ ABSL_GUARDED_BY(mu_), language_ ABSL_GUARDED_BY(mu_);
  uint64_t turn_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread thread_;
};

std::unique_ptr<WorkerPool> WorkerPool::Start(Options options) {
  return std::make_unique<WorkerPoolImpl>(std::move(options));
}

}  // namespace chord::gateway
