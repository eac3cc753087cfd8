#include "services/vision_worker/encode_queue.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::vision_worker {
namespace {

// A token that is cancelled once all of `parts` are: explicitly, or by their deadlines.
class AllCancelled {
 public:
  explicit AllCancelled(const std::vector<CancelToken>& parts)
      : source_(Latest(parts)), left_(static_cast<int>(parts.size())) {
    for (const CancelToken& part : parts) {
      registrations_.push_back(part.OnCancel([this] {
        if (--left_ == 0) source_.Cancel(errors::Cancelled());
      }));
    }
  }
  CancelToken token() const { return source_.token(); }

 private:
  static absl::Time Latest(const std::vector<CancelToken>& parts) {
    absl::Time latest = absl::InfinitePast();
    for (const CancelToken& part : parts) latest = std::max(latest, part.deadline());
    return latest;
  }

  CancelSource source_;
  std::atomic<int> left_;
  std::vector<CancelToken::Registration> registrations_;  // first to go: they use the others
};

using Output = engine::VisionTower::Output;

// The inputs of a pass one after another; `begins` of each, and the end. One alone is not copied.
template <typename T>
struct Joined {
  std::vector<T> values;
  std::vector<size_t> begins;

  explicit Joined(std::vector<std::vector<T>> parts) {
    size_t total = 0;
    for (const std::vector<T>& part : parts) {
      begins.push_back(total);
      total += part.size();
    }
    begins.push_back(total);
    if (parts.size() == 1) {
      values = std::move(parts[0]);
      return;
    }
    values.reserve(total);
    for (std::vector<T>& part : parts) {
      const std::vector<T> taken = std::exchange(part, {});
      values.insert(values.end(), taken.begin(), taken.end());
    }
  }
  absl::Span<const T> Part(size_t i) const {
    return absl::MakeConstSpan(values).subspan(begins[i], begins[i + 1] - begins[i]);
  }
};

Output RowsOf(const Output& all, int64_t begin, int64_t rows) {
  const int64_t row_bytes = all.width * model::SizeOf(all.dtype);
  const auto first = all.bytes.begin() + begin * row_bytes;
  return {all.dtype, rows, all.width, {first, first + rows * row_bytes}};
}

}  // namespace

EncodeQueue::EncodeQueue(engine::VisionTower* tower, const Options& options, obs::Metrics* metrics)
    : tower_(tower),
      options_(options),
      metrics_(metrics),
      places_(options.max_patches),
      budget_(options.max_batch_patches) {
  thread_ = std::thread([this] { Run(); });
}

EncodeQueue::~EncodeQueue() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
  for (Waiting& waiting : line_) waiting.job.done(errors::ShuttingDown());
}

absl::StatusOr<Budget::Share> EncodeQueue::Admit(int64_t patches, absl::Time deadline) {
  absl::MutexLock lock(&mu_);
  const absl::Time now = absl::Now();
  const int64_t ahead = AheadLocked(places_.taken(), now);
  switch (vision_worker::Admit(ahead, cost_.Micros(patches),
                               absl::ToInt64Microseconds(deadline - now))) {
    case Admission::kHopeless:
      if (ahead == 0) cost_.Doubt();
      return errors::DeadlineExceeded();
    case Admission::kBusy:
      return errors::Overloaded(EstimateWaitLocked());
    case Admission::kTake:
      break;
  }
  auto share = places_.TryTake(patches);
  if (!share) return errors::Overloaded(EstimateWaitLocked());
  return share;
}

absl::Status EncodeQueue::Submit(EncodeJob job) {
  absl::MutexLock lock(&mu_);
  if (stopping_) return errors::ShuttingDown();
  if (line_.size() >= static_cast<size_t>(options_.max_queue)) {
    return errors::Overloaded(EstimateWaitLocked());
  }
  const bool behind = running_.images > 0 || !line_.empty();
  line_.push_back({std::move(job), absl::Now(), behind});
  changed_.Signal();
  return absl::OkStatus();
}

void EncodeQueue::Sweep() {
  std::vector<Waiting> ended;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = line_.begin(); it != line_.end();) {
      if (it->job.cancel.cancelled()) {
        ended.push_back(std::move(*it));
        it = line_.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (Waiting& waiting : ended) waiting.job.done(waiting.job.cancel.Check());
}

void EncodeQueue::Observe(int64_t patches, absl::Duration took) {
  absl::MutexLock lock(&mu_);
  cost_.Observe(patches, absl::ToInt64Microseconds(took));
}

int EncodeQueue::queued() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(line_.size());
}
absl::Duration EncodeQueue::oldest() const {
  absl::MutexLock lock(&mu_);
  return line_.empty() ? absl::ZeroDuration() : absl::Now() - line_.front().since;
}
int EncodeQueue::running() const {
  absl::MutexLock lock(&mu_);
  return running_.images;
}
absl::Duration EncodeQueue::EstimateWait() const {
  absl::MutexLock lock(&mu_);
  return EstimateWaitLocked();
}

// Microseconds of `patches`, less what the pass under way has behind it.
int64_t EncodeQueue::AheadLocked(int64_t patches, absl::Time now) const {
  if (patches == 0) return 0;
  int64_t done = 0;
  if (running_.images > 0) {
    done = std::clamp<int64_t>(absl::ToInt64Microseconds(now - running_.began), 0,
                               cost_.Micros(running_.patches));
  }
  return std::max<int64_t>(cost_.Micros(patches) - done, 1);
}

absl::Duration EncodeQueue::EstimateWaitLocked() const {
  return std::clamp(absl::Microseconds(AheadLocked(places_.taken(), absl::Now())),
                    absl::Milliseconds(100), absl::Seconds(30));
}

bool EncodeQueue::TakePass(Pass* pass) {
  pass->clear();
  std::vector<std::pair<Waiting, absl::Status>> ended;
  {
    absl::MutexLock lock(&mu_);
    running_ = {};
    while (line_.empty() && !stopping_) changed_.Wait(&mu_);
    if (stopping_) return false;

    const absl::Time now = absl::Now();
    std::vector<WaitingImage> images;
    for (const Waiting& waiting : line_) {
      const CancelToken& cancel = waiting.job.cancel;
      images.push_back({waiting.job.grid.patches(),
                        absl::ToInt64Microseconds(cancel.deadline() - now), cancel.cancelled()});
    }
    const std::vector<Fate> fates = PlanBatch(images, budget_.limit(), cost_);
    std::deque<Waiting> line = std::exchange(line_, {});
    for (size_t i = 0; i < line.size(); ++i) {
      switch (fates[i]) {
        case Fate::kWait:
          line_.push_back(std::move(line[i]));
          break;
        case Fate::kRun:
          running_.images += 1;
          running_.patches += images[i].patches;
          pass->push_back(std::move(line[i]));
          break;
        case Fate::kLate:
          // Behind others it may fare better another time; else it asked for too little time.
          if (line[i].behind) {
            ended.emplace_back(std::move(line[i]), errors::Overloaded(EstimateWaitLocked()));
          } else {
            cost_.Doubt();
            ended.emplace_back(std::move(line[i]), errors::DeadlineExceeded());
          }
          break;
        case Fate::kCancelled: {
          auto status = line[i].job.cancel.Check();
          ended.emplace_back(std::move(line[i]), std::move(status));
          break;
        }
      }
    }
    running_.began = now;
  }
  for (auto& [waiting, status] : ended) waiting.job.done(std::move(status));
  return true;
}

absl::StatusOr<Output> EncodeQueue::Encode(absl::Span<const float> patches,
                                           absl::Span<const uint8_t> pixels,
                                           absl::Span<const image::Grid> grids,
                                           const CancelToken& cancel) {
  CHORD_RETURN_IF_ERROR(cancel.Check());
  int64_t count = 0;
  for (const image::Grid& grid : grids) count += grid.patches();
  const absl::Time began = absl::Now();
  auto rows = patches.empty() ? tower_->EncodePixels(pixels, grids, cancel)
                              : tower_->Encode(patches, grids, cancel);
  const absl::Duration took = absl::Now() - began;
  absl::MutexLock lock(&mu_);
  if (rows.ok()) {
    cost_.Observe(count, absl::ToInt64Microseconds(took));
    budget_.Ran();
    metrics_->EncodeBatch(static_cast<int64_t>(grids.size()));
  } else if (grids.size() > 1 && absl::IsResourceExhausted(rows.status())) {
    budget_.RanOutOfMemory(count);
  }
  return rows;
}

void EncodeQueue::RunPass(Pass pass) {
  std::vector<std::vector<float>> patch_parts;
  std::vector<std::vector<uint8_t>> pixel_parts;
  std::vector<image::Grid> grids;
  std::vector<CancelToken> tokens;
  int64_t total_patches = 0;
  for (Waiting& waiting : pass) {
    patch_parts.push_back(std::move(waiting.job.patches));
    pixel_parts.push_back(std::move(waiting.job.pixels));
    grids.push_back(waiting.job.grid);
    tokens.push_back(waiting.job.cancel);
    total_patches += waiting.job.grid.patches();
  }
  Joined<float> patches(std::move(patch_parts));
  Joined<uint8_t> pixels(std::move(pixel_parts));

  absl::Time began = absl::Now();
  absl::StatusOr<Output> all;
  {
    const AllCancelled cancel(tokens);
    all = Encode(patches.values, pixels.values, grids, cancel.token());
  }
  absl::Duration took = absl::Now() - began;
  if (all.ok() && (all->rows < 1 || total_patches % all->rows != 0)) all = errors::Internal();
  const bool alone_again = !all.ok() && pass.size() > 1;
  const int64_t patches_per_row = all.ok() ? total_patches / all->rows : 0;
  int64_t row = 0;
  for (size_t i = 0; i < pass.size(); ++i) {
    EncodeJob& job = pass[i].job;
    absl::StatusOr<Output> rows;
    if (auto status = tokens[i].Check(); !status.ok()) {
      rows = status;
    } else if (alone_again) {
      // One of them was too much: not necessarily this one.
      began = absl::Now();
      rows = Encode(patches.Part(i), pixels.Part(i), absl::MakeConstSpan(&grids[i], 1), tokens[i]);
      took = absl::Now() - began;
    } else if (!all.ok()) {
      rows = all.status();
    } else if (pass.size() == 1) {
      rows = std::move(all);
    } else {
      rows = RowsOf(*all, row, grids[i].patches() / patches_per_row);
    }
    if (patches_per_row > 0) row += grids[i].patches() / patches_per_row;
    if (i + 1 == pass.size() || !alone_again) {  // they go before the rows travel
      patches.values = {};
      pixels.values = {};
    }
    job.place.Return();
    const auto done = std::exchange(job.done, nullptr);
    if (rows.ok()) {
      done(EncodeJob::Result{*std::move(rows), began - pass[i].since, took});
    } else {
      done(rows.status());
    }
  }
}

void EncodeQueue::Run() {
  Pass pass;
  while (TakePass(&pass)) {
    if (!pass.empty()) RunPass(std::move(pass));
  }
}

}  // namespace chord::vision_worker
