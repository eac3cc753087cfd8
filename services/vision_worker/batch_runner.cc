#include "services/vision_worker/batch_runner.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"

namespace chord::vision_worker {
namespace {

using Output = engine::VisionTower::Output;

// A token that is cancelled once all of `parts` are: explicitly, or by their deadlines.
class AllCancelled {
 public:
  explicit AllCancelled(absl::Span<const QueuedJob> batch)
      : source_(LatestDeadline(batch)), active_(static_cast<int>(batch.size())) {
    for (const QueuedJob& queued : batch) {
      registrations_.push_back(queued.job.cancel.OnCancel([this] {
        if (--active_ == 0) source_.Cancel(errors::Cancelled());
      }));
    }
  }
  CancelToken token() const { return source_.token(); }

 private:
  static absl::Time LatestDeadline(absl::Span<const QueuedJob> batch) {
    absl::Time latest = absl::InfinitePast();
    for (const QueuedJob& queued : batch) latest = std::max(latest, queued.job.cancel.deadline());
    return latest;
  }

  CancelSource source_;
  std::atomic<int> active_;
  std::vector<CancelToken::Registration> registrations_;  // destroyed first: they use the others
};

// Arrays one after another. A single one is not copied.
template <typename T>
class Concatenated {
 public:
  explicit Concatenated(std::vector<std::vector<T>> parts) {
    size_t total = 0;
    for (const std::vector<T>& part : parts) {
      begins_.push_back(total);
      total += part.size();
    }
    begins_.push_back(total);
    if (parts.size() == 1) {
      values_ = std::move(parts[0]);
      return;
    }
    values_.reserve(total);
    for (std::vector<T>& part : parts) {
      const std::vector<T> taken = std::exchange(part, {});
      values_.insert(values_.end(), taken.begin(), taken.end());
    }
  }
  absl::Span<const T> all() const { return values_; }
  absl::Span<const T> part(size_t i) const {
    return all().subspan(begins_[i], begins_[i + 1] - begins_[i]);
  }
  void Free() { values_ = {}; }

 private:
  std::vector<T> values_;
  std::vector<size_t> begins_;
};

// Moves `member` out of every job.
template <typename T>
std::vector<std::vector<T>> TakeFromJobs(std::vector<T> EncodeJob::*member,
                                         std::vector<QueuedJob>& batch) {
  std::vector<std::vector<T>> out;
  for (QueuedJob& queued : batch) out.push_back(std::move(queued.job.*member));
  return out;
}

Output Rows(const Output& all, int64_t begin, int64_t rows) {
  const int64_t row_bytes = all.width * model::SizeOf(all.dtype);
  const auto first = all.bytes.begin() + begin * row_bytes;
  return {all.dtype, rows, all.width, {first, first + rows * row_bytes}};
}

void Finish(QueuedJob& queued, absl::StatusOr<Output> output, absl::Time began,
            absl::Duration took) {
  queued.job.permit.Release();
  const auto done = std::exchange(queued.job.done, nullptr);
  absl::Status status = queued.job.cancel.Check();
  if (status.ok()) status = output.status();
  if (!status.ok()) return done(std::move(status));
  done(EncodeJob::Result{*std::move(output), began - queued.queued_at, took});
}

}  // namespace

// The packed input of a batch.
class BatchRunner::Inputs {
 public:
  explicit Inputs(std::vector<QueuedJob>& batch)
      : patches_(TakeFromJobs(&EncodeJob::patches, batch)),
        pixels_(TakeFromJobs(&EncodeJob::pixels, batch)) {
    for (const QueuedJob& queued : batch) grids_.push_back(queued.job.grid);
  }
  const Concatenated<float>& patches() const { return patches_; }
  const Concatenated<uint8_t>& pixels() const { return pixels_; }
  absl::Span<const image::Grid> grids() const { return grids_; }
  void Free() {
    patches_.Free();
    pixels_.Free();
  }

 private:
  Concatenated<float> patches_;
  Concatenated<uint8_t> pixels_;
  std::vector<image::Grid> grids_;
};

BatchRunner::Encoded BatchRunner::Encode(absl::Span<const float> patches,
                                         absl::Span<const uint8_t> pixels,
                                         absl::Span<const image::Grid> grids,
                                         const CancelToken& cancel) {
  Encoded out;
  out.began = absl::Now();
  if (absl::Status status = cancel.Check(); !status.ok()) {
    out.output = std::move(status);
    return out;
  }
  out.output = patches.empty() ? tower_->EncodePixels(pixels, grids, cancel)
                               : tower_->Encode(patches, grids, cancel);
  out.took = absl::Now() - out.began;
  TowerRun run{static_cast<int64_t>(grids.size()), 0, out.took, out.output.status()};
  for (const image::Grid& grid : grids) run.patches += grid.patches();
  observe_(run);
  // Rows are dealt out by patches, so they must divide them.
  if (out.output.ok() && (out.output->rows < 1 || run.patches % out.output->rows != 0)) {
    out.output = errors::Internal();
  }
  return out;
}

void BatchRunner::Run(std::vector<QueuedJob> batch) {
  Inputs inputs(batch);
  Encoded all;
  {
    const AllCancelled cancel(batch);
    all = Encode(inputs.patches().all(), inputs.pixels().all(), inputs.grids(), cancel.token());
  }
  if (!all.output.ok() && batch.size() > 1) return RunOneByOne(std::move(batch), std::move(inputs));
  inputs.Free();  // before the embeddings are sent
  if (batch.size() == 1) return Finish(batch[0], std::move(all.output), all.began, all.took);

  int64_t patches = 0;
  for (const QueuedJob& queued : batch) patches += queued.job.grid.patches();
  const int64_t patches_per_row = patches / all.output->rows;
  int64_t row = 0;
  for (QueuedJob& queued : batch) {
    const int64_t rows = queued.job.grid.patches() / patches_per_row;
    Finish(queued, Rows(*all.output, row, rows), all.began, all.took);
    row += rows;
  }
}

void BatchRunner::RunOneByOne(std::vector<QueuedJob> batch, Inputs inputs) {
  for (size_t i = 0; i < batch.size(); ++i) {
    Encoded one = Encode(inputs.patches().part(i), inputs.pixels().part(i),
                         inputs.grids().subspan(i, 1), batch[i].job.cancel);
    if (i + 1 == batch.size()) inputs.Free();  // before the embeddings are sent
    Finish(batch[i], std::move(one.output), one.began, one.took);
  }
}

}  // namespace chord::vision_worker
