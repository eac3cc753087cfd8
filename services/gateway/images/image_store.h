// ImageService kept for more prompts: file bytes by handle, under one budget. Pure but for its
// lock: time and handles come from the caller.
//
// What goes first when room is needed: images that were asked about once and never again, the
// longest unused first; then those that were uploaded or asked about again, likewise, but never
// more of them than three quarters of the budget, so that fresh ones have a chance; pinned ones
// never (they have half of the budget at most). An image that is in use when it goes lives until
// its requests end.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/image/frame_plan.h"

namespace chord::gateway {

struct StoredImage {
  std::string id;      // "img_" and 32 hex digits, random: who knows it may use it
  std::string bytes;   // the file
  std::string digest;  // SHA-256 of the file, 32 bytes
  std::string key;     // the workers' name for it (ImageKey), 32 bytes
  image::FramePlan plan;
  bool pin = false;
};
using StoredImageRef = std::shared_ptr<const StoredImage>;

// 128 random bits.
std::string NewImageId();
// Whether `text` has the form of one; says nothing about whether it exists.
bool IsImageId(absl::string_view text);

// What must be equal for two images to share what the workers computed: SHA-256 over the form's
// version, the handle (so that two who upload the same file share nothing), the digest of the whole
// file, how it is decoded, every number of the frame, and the model. 32 bytes.
std::string ImageKey(absl::string_view image_id, absl::string_view digest,
                     const image::FramePlan& plan, absl::string_view model_fingerprint);

// Where an image's rows or KV are believed to be.
struct ImageAffinity {
  std::string worker;  // name; empty: nowhere yet
  uint64_t epoch = 0;  // of that worker; what an earlier epoch held is lost
  bool held = false;   // it returned that it holds it; false: it was only sent there
};

// Thread-safe.
class ImageStore {
 public:
  struct Options {
    int64_t max_bytes = 256LL << 20;
    absl::Duration ttl = absl::Minutes(10);  // after the last use
  };
  enum class Cause { kEvicted, kExpired, kDeleted };
  // An image that is no longer stored, and the worker that should drop it.
  struct Removed {
    StoredImageRef image;
    ImageAffinity affinity;
    Cause cause = Cause::kEvicted;
  };
  struct Found {
    StoredImageRef image;
    ImageAffinity affinity;
    absl::Time expires_at;
  };
  struct Summary {
    int64_t bytes = 0;  // of files and their entries
    int64_t images = 0;
  };
  // Of an entry beyond its file.
  static constexpr int64_t kEntryBytes = 1024;

  explicit ImageStore(const Options& options) : options_(options) {}

  // Whether a file of `bytes` could be kept now, whatever had to go for it. IMAGE_TOO_MANY_BYTES:
  // never; IMAGE_STORE_FULL: pinned ones are in the way. Asked before memory is taken for a file.
  absl::Status CheckRoom(int64_t bytes, bool pin, absl::Time now) const;

  // Keeps `image` (new id); `uploaded` by its owner rather than asked about once. Errors of Room.
  // What had to go is appended to `removed`.
  absl::StatusOr<absl::Time> Put(StoredImageRef image, bool uploaded, ImageAffinity affinity,
                                 absl::Time now, std::vector<Removed>& removed);

  // The image, its life extended. nullopt: unknown, expired or deleted.
  std::optional<Found> Use(absl::string_view id, absl::Time now);

  // Where it is now; ignored when the image is not stored.
  void SetAffinity(absl::string_view id, const ImageAffinity& affinity);

  // False: it was not there. Also an expired one that was not swept yet was not there, but goes.
  bool Delete(absl::string_view id, absl::Time now, std::vector<Removed>& removed);

  // Drops what has expired. Called now and then, so that memory goes back without a request.
  void Sweep(absl::Time now, std::vector<Removed>& removed);

  Summary summary() const;

 private:
  struct Entry {
    StoredImageRef image;
    ImageAffinity affinity;
    absl::Time last_use;
    int64_t cost = 0;
    int tier = 0;  // 0: asked once, 1: kept, 2: pinned
  };
  // Least recently used first.
  using List = std::list<Entry>;

  bool Expired(const Entry& entry, absl::Time now) const;
  void Move(List::iterator entry, int tier) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Drop(List::iterator entry, Cause cause, std::vector<Removed>& removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SweepLocked(absl::Time now, std::vector<Removed>& removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BalanceTiers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  mutable absl::Mutex mu_;
  List tiers_[3] ABSL_GUARDED_BY(mu_);
  int64_t bytes_[3] ABSL_GUARDED_BY(mu_) = {0, 0, 0};
  std::unordered_map<std::string, List::iterator> by_id_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::gateway
