#include "services/cli/bench/bench_run.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"

namespace chord::cli {
namespace {

// A closed loop whose server refuses at once would otherwise ask as fast as it can, and measure
// nothing but itself.
constexpr absl::Duration kRestAfterFailure = absl::Milliseconds(50);
// Requests end by their own deadline; this is for a transport that fails to say so.
constexpr absl::Duration kGrace = absl::Seconds(2);

std::atomic<int> signal_fd{-1};
std::atomic<bool> signalled{false};

void OnSignal(int) {
  const int saved = errno;
  signalled.store(true);
  const uint64_t one = 1;
  if (write(signal_fd.load(), &one, sizeof(one)) < 0) {
  }  // nothing can be done about it here
  errno = saved;
}

// What callbacks of the client share with the generator. Kept alive by both.
struct Shared {
  explicit Shared(BenchWaker& wake) : waker(wake) {}
  BenchWaker& waker;
  absl::Time start;
  absl::Mutex mu;
  std::vector<Sample> samples ABSL_GUARDED_BY(mu);
  std::vector<std::string> image_ids ABSL_GUARDED_BY(mu);
  int outstanding ABSL_GUARDED_BY(mu) = 0;
  int64_t answered ABSL_GUARDED_BY(mu) = 0;
  std::vector<absl::Time> resting ABSL_GUARDED_BY(mu);  // slots of a closed loop, until when
  bool stopped ABSL_GUARDED_BY(mu) = false;             // by us: what ends now is unfinished
  bool closed ABSL_GUARDED_BY(mu) = false;              // the result has been taken
};

void OnReply(Shared& shared, size_t index, int image, bool closed_loop, const BenchReply& reply) {
  const absl::Time now = absl::Now();
  {
    absl::MutexLock lock(&shared.mu);
    --shared.outstanding;
    if (shared.closed) return;
    Sample& sample = shared.samples[index];
    sample.end = absl::ToDoubleSeconds(now - shared.start);
    std::string& image_id = shared.image_ids[static_cast<size_t>(image)];
    if (reply.status.ok()) {
      sample.outcome = Outcome::kAnswered;
      ++shared.answered;
      sample.times = reply.times;
      sample.completion_tokens = reply.completion_tokens;
      sample.decode_steps = reply.decode_steps;
      sample.boxes = reply.boxes;
      sample.served_by = reply.served_by;
      if (reply.first_token_at != absl::InfiniteFuture()) {
        sample.ttft = absl::ToDoubleSeconds(reply.first_token_at - shared.start) - sample.arrival;
      } else if (reply.times.ttft_ms > 0) {
        // The server counts from when it got the request; what we were late by is ours to add.
        sample.ttft = sample.sent - sample.arrival + reply.times.ttft_ms / 1e3;
      }
      if (image_id.empty()) image_id = reply.image_id;
    } else if (shared.stopped && reply.status.code() == absl::StatusCode::kCancelled) {
      sample.outcome = Outcome::kUnfinished;
    } else {
      sample.outcome = Outcome::kFailed;
      sample.reason = ErrorReason(reply.status);
      // Expired or evicted: the image goes by its bytes until the server gives it a new handle.
      if (sample.by_id && errors::Is(reply.status, Reason::kImageIdUnknown)) image_id.clear();
      if (closed_loop) shared.resting.push_back(now + kRestAfterFailure);
    }
  }
  shared.waker.Wake();
}

class Generator {
 public:
  Generator(BenchClient& client, const Dataset& dataset, const BenchLoad& load,
            std::vector<std::string> image_ids, BenchWaker& waker,
            const std::function<void(double, int64_t)>& on_progress)
      : client_(client),
        dataset_(dataset),
        load_(load),
        waker_(waker),
        on_progress_(on_progress),
        shared_(std::make_shared<Shared>(waker)),
        sampler_(static_cast<int>(dataset.prompts.size()), load.reuse, load.seed),
        // Another stream of numbers than the mix: what is asked must not depend on the rate.
        arrivals_(load.rate > 0 ? load.rate : 1, load.seed ^ 0x9e3779b97f4a7c15) {
    shared_->image_ids = std::move(image_ids);
  }

  BenchResult Run() {
    start_ = absl::Now();
    shared_->start = start_;
    end_ = start_ + load_.warmup + load_.duration;
    next_progress_ = start_ + absl::Seconds(1);
    if (load_.rate > 0) {
      OpenLoop();
    } else {
      ClosedLoop();
    }
    const absl::Time stopped_at = absl::Now();
    const absl::Time patience = stopped_at + load_.timeout + kGrace;
    while (Outstanding() > 0 && !waker_.interrupted() && absl::Now() < patience) {
      WaitUntil(patience);
    }
    Abandon();
    BenchResult out;
    out.interrupted = waker_.interrupted();
    out.full = full_;
    out.window.begin = absl::ToDoubleSeconds(load_.warmup);
    out.window.end = absl::ToDoubleSeconds(std::min(end_, stopped_at) - start_);
    out.window.end = std::max(out.window.end, out.window.begin);
    absl::MutexLock lock(&shared_->mu);
    shared_->closed = true;
    out.samples = std::move(shared_->samples);
    image_ids_ = shared_->image_ids;
    return out;
  }

  const std::vector<std::string>& image_ids() const { return image_ids_; }

 private:
  void OpenLoop() {
    while (true) {
      const absl::Time due = start_ + absl::Seconds(arrivals_.Next());
      if (due >= end_) {
        while (!waker_.interrupted() && absl::Now() < end_) WaitUntil(end_);
        return;
      }
      while (!waker_.interrupted() && absl::Now() < due) WaitUntil(due);
      if (waker_.interrupted() || !Arrive(due)) return;
    }
  }

  void ClosedLoop() {
    while (!waker_.interrupted() && absl::Now() < end_) {
      absl::Time wake = end_;
      int busy = 0;
      {
        const absl::Time now = absl::Now();
        absl::MutexLock lock(&shared_->mu);
        auto& resting = shared_->resting;
        resting.erase(std::remove_if(resting.begin(), resting.end(),
                                     [now](absl::Time until) { return until <= now; }),
                      resting.end());
        for (const absl::Time until : resting) wake = std::min(wake, until);
        busy = shared_->outstanding + static_cast<int>(resting.size());
      }
      if (busy >= load_.concurrency) {
        WaitUntil(wake);
      } else if (!Arrive(absl::Now())) {
        return;
      }
    }
  }

  // False: no more samples fit.
  bool Arrive(absl::Time due) {
    const WorkloadSampler::Draw draw = sampler_.Next();
    const BenchRequest& prompt = dataset_.prompts[static_cast<size_t>(draw.prompt)];
    const absl::Time now = absl::Now();
    BenchAsk ask;
    ask.image = prompt.image;
    ask.prompt = prompt.prompt;
    ask.timeout = due + load_.timeout - now;
    size_t index = 0;
    {
      absl::MutexLock lock(&shared_->mu);
      index = shared_->samples.size();
      if (index >= kMaxBenchSamples) {
        full_ = true;
        return false;
      }
      Sample& sample = shared_->samples.emplace_back();
      sample.arrival = absl::ToDoubleSeconds(due - start_);
      sample.sent = absl::ToDoubleSeconds(now - start_);
      if (shared_->outstanding >= load_.max_outstanding) {
        sample.outcome = Outcome::kDropped;
        sample.end = sample.sent;
        return true;
      }
      if (draw.by_id) ask.image_id = shared_->image_ids[static_cast<size_t>(prompt.image)];
      sample.by_id = !ask.image_id.empty();
      ++shared_->outstanding;
    }
    client_.Send(
        ask, [shared = shared_, index, image = prompt.image, closed_loop = load_.rate <= 0](
                 const BenchReply& reply) { OnReply(*shared, index, image, closed_loop, reply); });
    return true;
  }

  // Ends what is still under way, for a user who will not wait.
  void Abandon() {
    if (Outstanding() == 0) return;
    {
      absl::MutexLock lock(&shared_->mu);
      shared_->stopped = true;
    }
    client_.CancelAll();
    const absl::Time patience = absl::Now() + kGrace;
    while (Outstanding() > 0 && absl::Now() < patience) waker_.WaitUntil(patience);
  }

  int Outstanding() {
    absl::MutexLock lock(&shared_->mu);
    return shared_->outstanding;
  }

  void WaitUntil(absl::Time until) {
    if (on_progress_ == nullptr) return waker_.WaitUntil(until);
    waker_.WaitUntil(std::min(until, next_progress_));
    const absl::Time now = absl::Now();
    if (now < next_progress_) return;
    next_progress_ = now + absl::Seconds(1);
    int64_t answered = 0;
    {
      absl::MutexLock lock(&shared_->mu);
      answered = shared_->answered;
    }
    on_progress_(absl::ToDoubleSeconds(now - start_), answered);
  }

  BenchClient& client_;
  const Dataset& dataset_;
  const BenchLoad& load_;
  BenchWaker& waker_;
  const std::function<void(double, int64_t)>& on_progress_;
  const std::shared_ptr<Shared> shared_;
  WorkloadSampler sampler_;
  Arrivals arrivals_;
  absl::Time start_, end_, next_progress_;
  bool full_ = false;
  std::vector<std::string> image_ids_;
};

}  // namespace

BenchWaker::BenchWaker() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

BenchWaker::~BenchWaker() {
  if (signal_fd.load() == fd_) {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
  }
  close(fd_);
}

void BenchWaker::CatchSignals() {
  signal_fd.store(fd_);
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESETHAND | SA_RESTART;  // the second time as always
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool BenchWaker::interrupted() const { return signalled.load(); }

void BenchWaker::Wake() {
  const uint64_t one = 1;
  if (write(fd_, &one, sizeof(one)) < 0) {
  }  // full: a wake is waiting already
}

void BenchWaker::WaitUntil(absl::Time until) {
  const timespec patience =
      absl::ToTimespec(std::clamp(until - absl::Now(), absl::ZeroDuration(), absl::Seconds(1)));
  pollfd fd{fd_, POLLIN, 0};
  if (ppoll(&fd, 1, &patience, nullptr) > 0) {
    uint64_t count = 0;
    if (read(fd_, &count, sizeof(count)) < 0) {
    }  // another thread has read it
  }
}

BenchResult RunBench(BenchClient& client, const Dataset& dataset, const BenchLoad& load,
                     std::vector<std::string>& image_ids, BenchWaker& waker,
                     const std::function<void(double, int64_t)>& on_progress) {
  Generator generator(client, dataset, load, image_ids, waker, on_progress);
  BenchResult out = generator.Run();
  image_ids = generator.image_ids();
  return out;
}

}  // namespace chord::cli
