// What the gateway keeps between requests: images, conversations about them, and the wish that
// workers drop removed images. Joins the pure stores with the clock, the workers and the metrics.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"
#include "common/obs/metrics.h"
#include "services/gateway/images/image_store.h"
#include "services/gateway/images/session_store.h"
#include "services/gateway/routing/worker_pool.h"

namespace chord::gateway {

// Thread-safe.
class ImageService {
 public:
  struct Options {
    image::PatchGeometry geometry;
    image::Limits limits;
    std::string fingerprint;
    ImageStore::Options store;
    SessionStore::Options sessions;
    absl::Duration sweep_every = absl::Seconds(1);
  };
  // `pool` and `metrics` are not owned and outlive the object.
  ImageService(Options options, WorkerPool& pool, obs::Metrics& metrics);
  ~ImageService();

  // What a client learns about a kept image.
  struct Kept {
    std::string id;
    image::Size size;  // upright px
    absl::Time expires_at;
  };

  // Reads the header and plans the frame; decodes nothing. Refuses what /api/ground would refuse.
  absl::StatusOr<image::FramePlan> Plan(absl::string_view bytes) const;
  // Whether an upload of that size could be kept; asked before its bytes are taken.
  absl::Status CheckRoom(int64_t bytes, bool pin) const;

  // Keeps an uploaded file. Errors of Plan and Room.
  absl::StatusOr<Kept> Upload(std::string bytes, bool pin);
  // IMAGE_ID_UNKNOWN when it is not (or no longer) here.
  absl::StatusOr<Kept> Touch(absl::string_view id);
  absl::Status Delete(absl::string_view id);
  absl::StatusOr<ImageStore::Found> Use(absl::string_view id);

  // Handle, digest and key of an image that came with its prompt; its `bytes` stay empty until
  // Keep. The one place where the file is hashed.
  StoredImage Name(absl::string_view bytes, const image::FramePlan& plan) const;
  // Keeps an image whose prompt has been answered. False: there was no room, and the worker is
  // told to drop it.
  bool Store(StoredImage image, absl::string_view bytes, const ImageAffinity& affinity);
  void SetAffinity(absl::string_view id, const ImageAffinity& affinity) {
    store_.SetAffinity(id, affinity);
  }

  SessionStore& sessions() { return sessions_; }
  // A client that sends its image again with each prompt of a conversation means the one that
  // is kept: remembers it by client, session and the digest of the whole file. Empty: unknown.
  std::string SessionImage(absl::string_view client, absl::string_view session_id,
                           absl::string_view digest) const;
  void SetSessionImage(absl::string_view client, absl::string_view session_id,
                       absl::string_view digest, absl::string_view image_id);

  absl::Duration ttl() const { return options_.store.ttl; }
  const image::Limits& limits() const { return options_.limits; }

 private:
  void Invalidate(const std::vector<ImageStore::Removed>& removed);
  void PublishMetrics();
  void Run();
  void Sweep();

  const Options options_;
  WorkerPool& pool_;
  obs::Metrics& metrics_;
  ImageStore store_;
  SessionStore sessions_;

  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::unordered_map<std::string, std::string> session_images_ ABSL_GUARDED_BY(mu_);
  std::deque<std::string> session_order_ ABSL_GUARDED_BY(mu_);  // oldest first
  std::thread sweeper_;
};

}  // namespace chord::gateway
