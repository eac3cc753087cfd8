#include "services/gateway/routing/worker_pool.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "chord/internal/v1/worker_status.grpc.pb.h"
#include "common/base/errors.h"
#include "common/obs/log.h"
#include "common/rpc/channel.h"
#include "common/rpc/client_call.h"
#include "common/rpc/peers.h"
#include "services/gateway/routing/pick_worker.h"

namespace chord::gateway {

namespace v1 = internal::v1;
using State = v1::WorkerState;

namespace {
constexpr int kMissedHeartbeats = 3;
constexpr absl::Duration kFirstRetry = absl::Milliseconds(50);
constexpr absl::Duration kLongestRetry = absl::Seconds(1);
constexpr absl::Duration kDropDeadline = absl::Seconds(2);
constexpr int kMaxDrops = 64;  // on their way at once
}  // namespace

// One status stream and its last message. Shared by the set, its stream and the leases.
struct WorkerPool::Worker {
  Peer peer;
  Role role;
  std::string source;  // the setting's name when it came from a look-up, else empty
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Vision::Stub> vision;
  std::unique_ptr<v1::Language::Stub> language;
  std::unique_ptr<v1::WorkerStatus::Stub> status;

  // Under the pool's lock.
  std::shared_ptr<grpc::ClientContext> watch;  // while a stream is open or opening
  bool leaving = false;  // no longer in the set; goes when its stream has ended
  uint64_t epoch = 1;    // of the stream that is open or comes next
  absl::Time next_try = absl::InfinitePast();
  absl::Duration retry = kFirstRetry;
  absl::Time last_heartbeat = absl::InfinitePast();
  absl::Time cooldown_until = absl::InfinitePast();
  State state;
  bool eligible = false;  // as last told
  int ours_in_flight = 0;
  int64_t ours_load = 0;
};

void WorkerPool::Lease::Release() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->Return(*this);
  worker_ = nullptr;
}

WorkerPool::Lease& WorkerPool::Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  Release();
  pool_ = std::exchange(other.pool_, nullptr);
  worker_ = std::move(other.worker_);
  cost_ = other.cost_;
  id_ = std::move(other.id_);
  return *this;
}

v1::Vision::Stub& WorkerPool::Lease::vision() const { return *worker_->vision; }
v1::Language::Stub& WorkerPool::Lease::language() const { return *worker_->language; }

class WorkerPoolImpl final : public WorkerPool {
 public:
  explicit WorkerPoolImpl(Options options) : options_(std::move(options)) {
    for (const Role role : {Role::kVision, Role::kLanguage}) {
      std::vector<rpc::PeerWatch::Lookup> lookups;
      for (const Peer& peer : role == Role::kVision ? options_.vision : options_.language) {
        if (const auto where = rpc::SplitDnsAddress(peer.address)) {
          lookups.push_back({peer.name, *where});
        } else {
          absl::MutexLock lock(&mu_);
          Set(role).push_back(Make(role, peer, ""));
        }
      }
      if (lookups.empty()) continue;
      // Its calls come on a thread of its own and wait for the lock below.
      lookups_[static_cast<size_t>(role)] = std::make_unique<rpc::PeerWatch>(
          std::move(lookups), options_.dns_every,
          [this, role](const rpc::PeerWatch::Lookup& lookup,
                       const absl::StatusOr<std::vector<rpc::NamedPeer>>& found) {
            Found(role, lookup.name, found);
          });
    }
    thread_ = std::thread([this] { Run(); });
  }

  ~WorkerPoolImpl() override {
    for (auto& lookups : lookups_) lookups = nullptr;
    {
      absl::MutexLock lock(&mu_);
      stop_ = true;
      changed_.SignalAll();
    }
    thread_.join();  // from here on no stream begins
    std::vector<std::shared_ptr<grpc::ClientContext>> open;
    {
      absl::MutexLock lock(&mu_);
      for (auto* workers : {&vision_, &language_}) {
        for (auto& worker : *workers) {
          if (worker->watch != nullptr) open.push_back(worker->watch);
        }
      }
    }
    // Without the lock: a stream may end on this very thread.
    for (const auto& context : open) context->TryCancel();
    const auto quiet = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return watches_ == 0; };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&quiet));
  }

  absl::StatusOr<Lease> Acquire(Role role, const AcquireOptions& options, const CancelToken& cancel,
                                absl::Time until) override {
    // Outlives the lock: its end waits for a callback that wants the lock.
    const auto wake = cancel.OnCancel([this] {
      absl::MutexLock lock(&mu_);
      changed_.SignalAll();
    });
    absl::MutexLock lock(&mu_);
    const uint64_t turn = turns_[static_cast<size_t>(role)]++;
    while (true) {
      if (auto status = cancel.Check(); !status.ok()) return status;
      const Workers& workers = Set(role);
      int preferred = -1;
      const std::vector<WorkerView> views = Views(workers, options, preferred);
      const Picked picked = PickWorker(views, options_.fingerprint, turn, preferred);
      if (picked.outcome == Picked::Outcome::kFound) {
        return Take(workers[static_cast<size_t>(picked.index)], options.cost);
      }
      if (picked.outcome != Picked::Outcome::kNoneReady || stop_ || absl::Now() >= until) {
        return Refusal(role, picked.outcome);
      }
      // A missed heartbeat wakes no waiter, and needs not: only a message makes a worker eligible.
      changed_.WaitWithDeadline(&mu_, std::min(until, cancel.deadline()));
    }
  }

  void Cooldown(const WorkerId& id, absl::Duration time) override {
    absl::MutexLock lock(&mu_);
    for (auto* workers : {&vision_, &language_}) {
      for (const auto& worker : *workers) {
        if (worker->peer.name == id.name && worker->epoch == id.epoch) {
          worker->cooldown_until = absl::Now() + time;
        }
      }
    }
  }

  void DropImage(const WorkerId& id, absl::string_view key) override {
    struct Drop {
      std::shared_ptr<Worker> worker;  // keeps the channel
      std::shared_ptr<std::atomic<int>> count;
      grpc::ClientContext context;
      v1::DropImageRequest request;
      v1::DropImageResponse response;
    };
    auto drop = std::make_shared<Drop>();
    {
      absl::MutexLock lock(&mu_);
      for (const auto& worker : language_) {
        if (worker->peer.name == id.name && worker->epoch == id.epoch && Alive(*worker)) {
          drop->worker = worker;
        }
      }
    }
    if (drop->worker == nullptr) return;
    if (drops_->fetch_add(1) >= kMaxDrops) {
      drops_->fetch_sub(1);
      return;
    }
    drop->count = drops_;
    drop->request.set_key(std::string(key));
    drop->context.set_deadline(absl::ToChronoTime(absl::Now() + kDropDeadline));
    drop->worker->language->async()->DropImage(&drop->context, &drop->request, &drop->response,
                                               [drop](grpc::Status) { drop->count->fetch_sub(1); });
  }

  std::vector<obs::OtherExposition> Metrics(absl::Time until) override {
    const auto page = std::make_shared<MetricsPage>();
    for (const auto& worker : AliveWorkers()) {
      auto call = std::make_shared<MetricsPage::Call>();
      call->worker = worker;
      call->context.set_deadline(absl::ToChronoTime(until));
      {
        absl::MutexLock lock(&page->mu);
        ++page->open;
      }
      worker->status->async()->Metrics(
          &call->context, &call->request, &call->response,
          [page, call](const grpc::Status& status) {
            absl::MutexLock lock(&page->mu);
            --page->open;
            if (!status.ok()) return;
            page->texts.push_back({call->worker->peer.name, call->response.text()});
          });
    }
    absl::MutexLock lock(&page->mu);
    const auto answered = [&page]()
                              ABSL_SHARED_LOCKS_REQUIRED(page->mu) { return page->open == 0; };
    page->mu.AwaitWithDeadline(absl::Condition(&answered), until);
    std::vector<obs::OtherExposition> out = page->texts;
    std::sort(out.begin(), out.end(),
              [](const auto& a, const auto& b) { return a.worker < b.worker; });
    return out;
  }

  Load load() override {
    Load out;
    int64_t used = 0, capacity = 0;
    for (const auto& worker : AliveWorkers()) {
      absl::MutexLock lock(&mu_);
      out.waiting += worker->state.requests_queued();
      used += worker->state.tokens_in_flight();
      capacity += worker->state.token_capacity();
    }
    if (capacity > 0) {
      out.kv_usage = std::min(1.0, static_cast<double>(used) / static_cast<double>(capacity));
    }
    return out;
  }

  absl::Status Ready() override {
    absl::MutexLock lock(&mu_);
    std::string missing;
    for (const Role role : {Role::kVision, Role::kLanguage}) {
      int preferred = -1;
      const Picked picked = PickWorker(Views(Set(role), {}, preferred), options_.fingerprint, 0);
      if (picked.outcome == Picked::Outcome::kMismatch) return errors::ModelMismatch();
      if (picked.outcome != Picked::Outcome::kNoneReady) continue;
      absl::StrAppend(&missing, missing.empty() ? "" : " and no ", RoleName(role));
    }
    return missing.empty() ? absl::OkStatus() : errors::WorkerUnavailable(missing);
  }

 private:
  using Workers = std::vector<std::shared_ptr<Worker>>;

  // One round of calls for metrics; outlives the caller when a worker answers late.
  struct MetricsPage {
    struct Call {
      std::shared_ptr<Worker> worker;  // keeps the stub
      grpc::ClientContext context;
      v1::MetricsRequest request;
      v1::MetricsResponse response;
    };
    absl::Mutex mu;
    int open ABSL_GUARDED_BY(mu) = 0;
    std::vector<obs::OtherExposition> texts ABSL_GUARDED_BY(mu);
  };

  Workers AliveWorkers() {
    absl::MutexLock lock(&mu_);
    Workers out;
    for (auto* workers : {&vision_, &language_}) {
      for (const auto& worker : *workers) {
        if (Alive(*worker)) out.push_back(worker);
      }
    }
    return out;
  }

  // One status stream.
  class Watch final : public rpc::ClientCall<grpc::ClientReadReactor<State>> {
   public:
    Watch(WorkerPoolImpl& pool, std::shared_ptr<Worker> worker)
        : pool_(pool), worker_(std::move(worker)) {
      context_->set_wait_for_ready(true);
      request_.set_interval_seconds(absl::ToDoubleSeconds(pool.options_.heartbeat));
    }
    const std::shared_ptr<grpc::ClientContext>& context() const { return context_; }
    void Start() {
      worker_->status->async()->Watch(context_.get(), &request_, this);
      StartRead(&state_);
      StartCall();
    }
    void OnReadDone(bool ok) override {
      if (!ok) return;
      pool_.OnState(*worker_, state_);
      StartRead(&state_);
    }

   private:
    void OnEnd(const grpc::Status& status) override { pool_.OnWatchEnd(*worker_, status); }

    WorkerPoolImpl& pool_;
    const std::shared_ptr<Worker> worker_;
    // Shared with the thread that cancels it; outlives the call then.
    const std::shared_ptr<grpc::ClientContext> context_ = std::make_shared<grpc::ClientContext>();
    v1::WatchRequest request_;
    State state_;
  };

  static State::Role Wanted(Role role) {
    return role == Role::kVision ? State::ROLE_VISION : State::ROLE_LANGUAGE;
  }
  static absl::string_view RoleName(Role role) {
    return role == Role::kVision ? "vision" : "language";
  }
  Workers& Set(Role role) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return role == Role::kVision ? vision_ : language_;
  }

  static std::shared_ptr<Worker> Make(Role role, const Peer& peer, std::string source) {
    auto worker = std::make_shared<Worker>();
    worker->peer = peer;
    worker->role = role;
    worker->source = std::move(source);
    worker->channel = rpc::MakeChannel(peer.address);
    worker->vision = v1::Vision::NewStub(worker->channel);
    worker->language = v1::Language::NewStub(worker->channel);
    worker->status = v1::WorkerStatus::NewStub(worker->channel);
    return worker;
  }

  bool Alive(const Worker& worker) const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return !worker.leaving &&
           absl::Now() - worker.last_heartbeat < kMissedHeartbeats * options_.heartbeat;
  }

  std::vector<WorkerView> Views(const Workers& workers, const AcquireOptions& options,
                                int& preferred) const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    std::vector<WorkerView> out;
    for (const auto& worker : workers) {
      const State& state = worker->state;
      WorkerView view;
      view.alive = Alive(*worker);
      view.ready = state.ready() && state.role() == Wanted(worker->role);
      view.fingerprint = state.model_fingerprint();
      view.queued = state.requests_queued();
      view.queue_capacity = state.queue_capacity();
      view.in_flight = state.requests_in_flight();
      view.ours_in_flight = worker->ours_in_flight;
      view.load =
          worker->role == Role::kVision ? state.patches_in_flight() : state.tokens_in_flight();
      view.ours_load = worker->ours_load;
      const WorkerId id{worker->peer.name, worker->epoch};
      view.cooling_down = absl::Now() < worker->cooldown_until;
      view.excluded =
          std::find(options.excluded.begin(), options.excluded.end(), id) != options.excluded.end();
      if (!options.preferred.empty() && worker->peer.name == options.preferred) {
        preferred = static_cast<int>(out.size());
      }
      out.push_back(std::move(view));
    }
    return out;
  }

  static absl::Status Refusal(Role role, Picked::Outcome why) {
    if (why == Picked::Outcome::kMismatch) return errors::ModelMismatch();
    if (why == Picked::Outcome::kFull) return errors::Overloaded(absl::Seconds(1));
    return errors::WorkerUnavailable(RoleName(role));
  }

  Lease Take(const std::shared_ptr<Worker>& worker, int64_t cost)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Lease lease;
    lease.pool_ = this;
    lease.worker_ = worker;
    lease.cost_ = cost;
    lease.id_ = {worker->peer.name, worker->epoch};
    ++worker->ours_in_flight;
    worker->ours_load += cost;
    return lease;
  }

  void Return(const Lease& lease) override {
    absl::MutexLock lock(&mu_);
    --lease.worker_->ours_in_flight;
    lease.worker_->ours_load -= lease.cost_;
  }

  void OnState(Worker& worker, const State& state) {
    absl::MutexLock lock(&mu_);
    worker.last_heartbeat = absl::Now();
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
    ++worker.epoch;
    worker.last_heartbeat = absl::InfinitePast();
    worker.state.Clear();
    worker.next_try = absl::Now() + worker.retry;
    worker.retry = std::min(2 * worker.retry, kLongestRetry);
    changed_.SignalAll();
    --watches_;  // the last thing: the pool may go then
  }

  // Opens streams that have ended, drops workers that left, and reports how many are eligible.
  void Run() {
    int last_vision = -1, last_language = -1;
    while (true) {
      int vision, language;
      {
        absl::MutexLock lock(&mu_);
        if (stop_) return;
        const absl::Time next = MaintainStreams(absl::Now());
        vision = CountEligible(vision_);
        language = CountEligible(language_);
        if (!options_.on_change || (vision == last_vision && language == last_language)) {
          changed_.WaitWithDeadline(&mu_, next);
          continue;
        }
      }
      last_vision = vision;
      last_language = language;
      options_.on_change(vision, language);
    }
  }

  // Returns when to look again.
  absl::Time MaintainStreams(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    absl::Time next = now + options_.heartbeat / 2;  // a missed heartbeat is seen by looking
    for (auto* workers : {&vision_, &language_}) {
      workers->erase(std::remove_if(workers->begin(), workers->end(),
                                    [](const std::shared_ptr<Worker>& worker) {
                                      return worker->leaving && worker->watch == nullptr;
                                    }),
                     workers->end());
      for (auto& worker : *workers) {
        if (worker->watch != nullptr || worker->leaving) continue;
        if (now < worker->next_try) {
          next = std::min(next, worker->next_try);
          continue;
        }
        const auto watch = rpc::MakeClientCall<Watch>(*this, worker);
        worker->watch = watch->context();
        ++watches_;
        watch->Start();
      }
    }
    return next;
  }

  int CountEligible(const Workers& workers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    int count = 0;
    for (const auto& worker : workers) {
      const bool ready =
          Alive(*worker) && worker->state.ready() && worker->state.role() == Wanted(worker->role);
      const bool eligible = ready && worker->state.model_fingerprint() == options_.fingerprint;
      count += eligible;
      if (eligible == worker->eligible) continue;
      worker->eligible = eligible;
      obs::Log(eligible ? obs::LogLevel::kInfo : obs::LogLevel::kWarning,
               eligible ? "worker_ready" : "worker_not_ready",
               {{"worker", worker->peer.name},
                {"worker_role", RoleName(worker->role)},
                {"same_model", !ready || eligible}});
    }
    return count;
  }

  // A name that has no address any more keeps its workers: those that ended miss their heartbeats.
  void Found(Role role, const std::string& name,
             const absl::StatusOr<std::vector<rpc::NamedPeer>>& found) {
    std::vector<std::shared_ptr<grpc::ClientContext>> ended;
    if (found.ok()) Apply(role, name, *found, ended);
    for (const auto& context : ended) context->TryCancel();  // may end on this very thread
    absl::MutexLock lock(&mu_);
    const bool failed_before = std::exchange(lookup_failed_[name], !found.ok());
    if (!found.ok() && !failed_before) {
      obs::Log(obs::LogLevel::kWarning, "worker_lookup_failed",
               {{"worker", name}, {"text", found.status().message()}});
    }
  }

  void Apply(Role role, const std::string& name, const std::vector<rpc::NamedPeer>& found,
             std::vector<std::shared_ptr<grpc::ClientContext>>& ended) {
    absl::MutexLock lock(&mu_);
    if (found.empty() || stop_) return;
    Workers& workers = Set(role);
    for (auto& worker : workers) {
      if (worker->source != name || worker->leaving) continue;
      const bool there = std::any_of(found.begin(), found.end(), [&](const rpc::NamedPeer& peer) {
        return peer.name == worker->peer.name;
      });
      if (there) continue;
      worker->leaving = true;
      if (worker->watch != nullptr) ended.push_back(worker->watch);
      obs::Log(obs::LogLevel::kInfo, "worker_left", {{"worker", worker->peer.name}});
    }
    for (const rpc::NamedPeer& peer : found) {
      const bool known =
          std::any_of(workers.begin(), workers.end(), [&](const std::shared_ptr<Worker>& worker) {
            return worker->peer.name == peer.name && !worker->leaving;
          });
      if (known) continue;
      workers.push_back(Make(role, {peer.name, peer.address}, name));
      obs::Log(obs::LogLevel::kInfo, "worker_found", {{"worker", peer.name}});
    }
    changed_.SignalAll();
  }

  const Options options_;
  std::unique_ptr<rpc::PeerWatch> lookups_[2];  // by role
  const std::shared_ptr<std::atomic<int>> drops_ = std::make_shared<std::atomic<int>>(0);
  std::atomic<bool> stop_{false};
  absl::Mutex mu_;
  absl::CondVar changed_;
  Workers vision_ ABSL_GUARDED_BY(mu_), language_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, bool> lookup_failed_ ABSL_GUARDED_BY(mu_);
  int watches_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t turns_[2] ABSL_GUARDED_BY(mu_) = {0, 0};  // by role, else one would step over the other
  std::thread thread_;
};

std::unique_ptr<WorkerPool> WorkerPool::Start(Options options) {
  return std::make_unique<WorkerPoolImpl>(std::move(options));
}

}  // namespace chord::gateway
