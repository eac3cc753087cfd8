#include "services/gateway/images/image_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"

namespace chord::gateway {

using obs::ImageEvent;

ImageService::ImageService(Options options, WorkerPool& pool, obs::Metrics& metrics)
    : options_(std::move(options)),
      pool_(pool),
      metrics_(metrics),
      store_(options_.store),
      sessions_(options_.sessions),
      sweeper_([this] { Run(); }) {}

ImageService::~ImageService() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
    changed_.SignalAll();
  }
  sweeper_.join();
}

absl::StatusOr<image::FramePlan> ImageService::Plan(absl::string_view bytes) const {
  CHORD_ASSIGN_OR_RETURN(const image::Header header, image::Probe(bytes, options_.limits));
  return image::PlanFrame(header, options_.geometry);
}

absl::Status ImageService::CheckRoom(int64_t bytes, bool pin) const {
  return store_.CheckRoom(bytes, pin, absl::Now());
}

absl::StatusOr<ImageService::Kept> ImageService::Upload(std::string bytes, bool pin) {
  const auto keep = [&]() -> absl::StatusOr<Kept> {
    CHORD_ASSIGN_OR_RETURN(const image::FramePlan plan, Plan(bytes));
    CHORD_RETURN_IF_ERROR(CheckRoom(static_cast<int64_t>(bytes.size()), pin));
    auto image = std::make_shared<StoredImage>(Name(bytes, plan));
    image->pin = pin;
    image->bytes = std::move(bytes);
    std::vector<ImageStore::Removed> removed;
    Kept out{image->id, plan.upright, {}};
    const auto expires =
        store_.Put(std::move(image), /*uploaded=*/true, ImageAffinity(), absl::Now(), removed);
    Invalidate(removed);
    if (!expires.ok()) return expires.status();
    out.expires_at = *expires;
    return out;
  };
  auto out = keep();
  metrics_.Image(out.ok() ? ImageEvent::kUploaded : ImageEvent::kRefused);
  PublishMetrics();
  return out;
}

absl::StatusOr<ImageService::Kept> ImageService::Touch(absl::string_view id) {
  CHORD_ASSIGN_OR_RETURN(const ImageStore::Found found, Use(id));
  return Kept{found.image->id, found.image->plan.upright, found.expires_at};
}

absl::Status ImageService::Delete(absl::string_view id) {
  std::vector<ImageStore::Removed> removed;
  const bool there = store_.Delete(id, absl::Now(), removed);
  Invalidate(removed);
  PublishMetrics();
  return there ? absl::OkStatus() : errors::ImageIdUnknown();
}

absl::StatusOr<ImageStore::Found> ImageService::Use(absl::string_view id) {
  auto found = store_.Use(id, absl::Now());
  metrics_.Image(found ? ImageEvent::kHit : ImageEvent::kMiss);
  if (!found) return errors::ImageIdUnknown();
  return *std::move(found);
}

StoredImage ImageService::Name(absl::string_view bytes, const image::FramePlan& plan) const {
  StoredImage out;
  out.id = NewImageId();
  Sha256 hash;
  hash.Update(bytes);
  out.digest = hash.Digest();
  out.plan = plan;
  out.key = ImageKey(out.id, out.digest, plan, options_.fingerprint);
  return out;
}

bool ImageService::Store(StoredImage image, absl::string_view bytes,
                         const ImageAffinity& affinity) {
  image.bytes = std::string(bytes);
  auto kept = std::make_shared<const StoredImage>(std::move(image));
  std::vector<ImageStore::Removed> removed;
  const bool ok = store_.Put(kept, /*uploaded=*/false, affinity, absl::Now(), removed).ok();
  if (!ok && !affinity.worker.empty())
    pool_.DropImage({affinity.worker, affinity.epoch}, kept->key);
  Invalidate(removed);
  metrics_.Image(ok ? ImageEvent::kAsked : ImageEvent::kRefused);
  PublishMetrics();
  return ok;
}

std::string ImageService::SessionImage(absl::string_view client, absl::string_view session_id,
                                       absl::string_view digest) const {
  absl::MutexLock lock(&mu_);
  const auto found = session_images_.find(absl::StrCat(client, " ", session_id, " ", digest));
  return found == session_images_.end() ? "" : found->second;
}

void ImageService::SetSessionImage(absl::string_view client, absl::string_view session_id,
                                   absl::string_view digest, absl::string_view image_id) {
  const std::string key = absl::StrCat(client, " ", session_id, " ", digest);
  absl::MutexLock lock(&mu_);
  const bool fresh = session_images_.insert_or_assign(key, std::string(image_id)).second;
  if (!fresh) return;
  session_order_.push_back(key);
  while (session_order_.size() > static_cast<size_t>(options_.sessions.max_sessions)) {
    session_images_.erase(session_order_.front());
    session_order_.pop_front();
  }
}

void ImageService::Invalidate(const std::vector<ImageStore::Removed>& removed) {
  for (const ImageStore::Removed& one : removed) {
    switch (one.cause) {
      case ImageStore::Cause::kEvicted:
        metrics_.Image(ImageEvent::kEvicted);
        break;
      case ImageStore::Cause::kExpired:
        metrics_.Image(ImageEvent::kExpired);
        break;
      case ImageStore::Cause::kDeleted:
        metrics_.Image(ImageEvent::kDeleted);
        break;
    }
    sessions_.DropImage(one.image->id);
    if (one.affinity.worker.empty()) continue;
    pool_.DropImage({one.affinity.worker, one.affinity.epoch}, one.image->key);
  }
}

void ImageService::PublishMetrics() {
  const ImageStore::Summary summary = store_.summary();
  metrics_.SetImageStore(summary.bytes, summary.images);
  metrics_.SetSessions(sessions_.size());
}

void ImageService::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (!stop_) changed_.WaitWithTimeout(&mu_, options_.sweep_every);
      if (stop_) return;
    }
    Sweep();
  }
}

void ImageService::Sweep() {
  std::vector<ImageStore::Removed> removed;
  store_.Sweep(absl::Now(), removed);
  Invalidate(removed);
  for (int expired = sessions_.Sweep(absl::Now()); expired > 0; --expired) {
    metrics_.Session(obs::SessionEvent::kExpired);
  }
  PublishMetrics();
}

}  // namespace chord::gateway
