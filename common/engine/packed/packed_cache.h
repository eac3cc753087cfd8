// Packed weights on disk, so that a model is packed once and mapped from then on.
//
// One file for each set of weights, named by a hash of everything the content depends on: the
// model's fingerprint, size and time of change of each weight file, the part, the format and the
// layout's version. Files are written whole or not at all and checked (CRC-32C) when they are
// opened; a damaged one counts as absent. Any of them may be deleted at any time: a process that
// has it mapped keeps it. Everything here is an optimisation, so a failure is a status for the log
// and the model loads without.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/engine/packed/packed_matrix.h"
#include "common/engine/weight_format.h"
#include "common/model/checkpoint.h"

namespace chord::engine {

class PackedCache {
 public:
  // `part` names which weights of the checkpoint ("language", "vision"). Without a folder, or when
  // the hash cannot be made, the cache is empty and keeps nothing.
  PackedCache(const PackedCacheOptions& options, const model::Checkpoint& checkpoint,
              absl::string_view part, const WeightFormat& format);
  ~PackedCache();
  PackedCache(const PackedCache&) = delete;
  PackedCache& operator=(const PackedCache&) = delete;

  // The matrix of that name, mapped; nullptr when there is none.
  std::shared_ptr<const PackedMatrix> Find(absl::string_view name) const;
  // Remembers it for Save.
  void Add(absl::string_view name, std::shared_ptr<const PackedMatrix> matrix);
  // Writes the file if a matrix was added, after making room: the files used longest ago go first.
  // RESOURCE_EXHAUSTED when it is larger than the cache may be or than the disk has room for,
  // FILE_NOT_WRITTEN.
  absl::Status Save();

  bool hit() const { return !mapped_.empty(); }
  const std::string& path() const { return path_; }  // "" without a folder

 private:
  absl::Status Open();
  absl::Status MakeRoom(int64_t bytes) const;

  const PackedCacheOptions options_;
  std::string path_;
  absl::flat_hash_map<std::string, std::shared_ptr<const PackedMatrix>> mapped_;
  std::vector<std::pair<std::string, std::shared_ptr<const PackedMatrix>>> added_;
};

}  // namespace chord::engine
