#include "common/engine/packed/packed_cache.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/crc32c.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/engine/cpu/thread_pool.h"
#include "common/engine/packed/pack_weights.h"
#include "common/model/model_config.h"
#include "common/model/weight_files.h"

namespace chord::engine {
namespace {

namespace fs = std::filesystem;

constexpr char kSuffix[] = ".packed";
constexpr int64_t kBlobAlign = 4096;
constexpr int64_t kSpareDisk = int64_t{256} << 20;
constexpr uint64_t kMaxEntries = 1 << 16;

// The file: a FileHeader, `entries` Entries, then each blob at a multiple of 4096 bytes.
struct FileHeader {
  char magic[8] = {'C', 'H', 'P', 'A', 'C', 'K', '0', '1'};
  uint64_t entries = 0;
  uint32_t table_crc = 0;  // of the entries
  uint32_t unused = 0;
};
struct Entry {
  char name[200] = {};  // ends with a zero
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint32_t crc = 0;
  uint32_t unused = 0;
};

int64_t Aligned(int64_t bytes) { return (bytes + kBlobAlign - 1) / kBlobAlign * kBlobAlign; }

absl::string_view Chars(const void* data, size_t bytes) {
  return {static_cast<const char*>(data), bytes};
}
uint32_t BlobCrc(absl::Span<const std::byte> blob) {
  return Crc32c(Chars(blob.data(), blob.size()));
}

absl::StatusOr<std::string> KeyOf(const model::Checkpoint& checkpoint, absl::string_view part,
                                  const WeightFormat& format) {
  Sha256 hash;
  hash.UpdateField("packed weights");
  hash.UpdateField(absl::StrCat(PackedHeader::kVersion, " ", kPackingVersion));
  hash.UpdateField(part);
  hash.UpdateField(format.ToString());
  CHORD_ASSIGN_OR_RETURN(const std::string fingerprint, model::Fingerprint(checkpoint.dir()));
  hash.UpdateField(fingerprint);
  CHORD_ASSIGN_OR_RETURN(const model::WeightFiles files, model::FindWeightFiles(checkpoint.dir()));
  for (const std::string& name : files.names) {
    struct stat info;
    if (stat(absl::StrCat(checkpoint.dir(), "/", name).c_str(), &info) != 0) {
      return absl::UnavailableError("a weight file was removed");
    }
    hash.UpdateField(name);
    hash.UpdateField(
        absl::StrCat(info.st_size, " ", info.st_mtim.tv_sec, " ", info.st_mtim.tv_nsec));
  }
  return hash.HexDigest();
}

}  // namespace

PackedCache::PackedCache(const PackedCacheOptions& options, const model::Checkpoint& checkpoint,
                         absl::string_view part, const WeightFormat& format)
    : options_(options) {
  if (options.dir.empty()) return;
  const auto key = KeyOf(checkpoint, part, format);
  if (!key.ok()) return;
  path_ = absl::StrCat(options.dir, "/", *key, kSuffix);
  if (!Open().ok()) mapped_.clear();
}

PackedCache::~PackedCache() = default;

absl::Status PackedCache::Open() {
  const fs::path path(path_);
  CHORD_ASSIGN_OR_RETURN(MappedFile opened,
                         MappedFile::Open(path.parent_path(), path.filename().string()));
  const auto file = std::make_shared<MappedFile>(std::move(opened));
  const absl::Span<const std::byte> bytes = file->bytes();
  FileHeader header;
  const absl::Status damaged = absl::DataLossError("the file is damaged");
  if (bytes.size() < sizeof(header)) return damaged;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, FileHeader().magic, sizeof(header.magic)) != 0 ||
      header.entries > kMaxEntries ||
      header.entries * sizeof(Entry) > bytes.size() - sizeof(header)) {
    return damaged;
  }
  std::vector<Entry> entries(header.entries);
  std::memcpy(entries.data(), bytes.data() + sizeof(header), entries.size() * sizeof(Entry));
  if (Crc32c(Chars(entries.data(), entries.size() * sizeof(Entry))) != header.table_crc) {
    return damaged;
  }
  for (const Entry& entry : entries) {
    if (entry.offset > bytes.size() || entry.bytes > bytes.size() - entry.offset ||
        entry.name[sizeof(entry.name) - 1] != 0) {
      return damaged;
    }
    CHORD_ASSIGN_OR_RETURN(auto matrix,
                           PackedMatrix::Adopt(bytes.subspan(entry.offset, entry.bytes), file));
    mapped_.emplace(entry.name, std::move(matrix));
  }
  // Reads everything once, as fast as the disk gives it, and with that brings it into memory.
  std::atomic<bool> whole{true};
  CpuThreads().Run(static_cast<int64_t>(entries.size()), [&](int64_t i, int) {
    const Entry& entry = entries[i];
    if (BlobCrc(bytes.subspan(entry.offset, entry.bytes)) != entry.crc) whole.store(false);
  });
  if (!whole.load()) return damaged;
  std::error_code ignored;
  fs::last_write_time(path, fs::file_time_type::clock::now(), ignored);  // used now
  return absl::OkStatus();
}

std::shared_ptr<const PackedMatrix> PackedCache::Find(absl::string_view name) const {
  const auto found = mapped_.find(name);
  return found == mapped_.end() ? nullptr : found->second;
}

void PackedCache::Add(absl::string_view name, std::shared_ptr<const PackedMatrix> matrix) {
  if (!path_.empty() && name.size() < sizeof(Entry::name)) {
    added_.emplace_back(std::string(name), std::move(matrix));
  }
}

absl::Status PackedCache::MakeRoom(int64_t bytes) const {
  struct File {
    fs::path path;
    fs::file_time_type used;
    int64_t bytes;
  };
  std::vector<File> files;
  int64_t total = 0;
  std::error_code error;
  fs::create_directories(options_.dir, error);
  for (const auto& entry : fs::directory_iterator(options_.dir, error)) {
    if (!absl::EndsWith(entry.path().string(), kSuffix) || entry.path() == path_) continue;
    File file{entry.path(), entry.last_write_time(error), 0};
    file.bytes = static_cast<int64_t>(entry.file_size(error));
    if (error) continue;
    total += file.bytes;
    files.push_back(std::move(file));
  }
  if (bytes > options_.max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("packed weights of ", bytes,
                                                     " bytes are larger than their cache, ",
                                                     options_.max_bytes, " bytes"));
  }
  std::sort(files.begin(), files.end(),
            [](const File& a, const File& b) { return a.used < b.used; });
  for (const File& file : files) {
    if (total + bytes <= options_.max_bytes) break;
    if (fs::remove(file.path, error)) total -= file.bytes;
  }
  struct statvfs disk;
  if (statvfs(options_.dir.c_str(), &disk) == 0 &&
      static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize) <
          bytes + kSpareDisk) {
    return absl::ResourceExhaustedError("the disk of the cache of packed weights is full");
  }
  return absl::OkStatus();
}

absl::Status PackedCache::Save() {
  if (added_.empty()) return absl::OkStatus();
  // What was found is written again: the file is replaced as a whole.
  for (const auto& [name, matrix] : mapped_) added_.emplace_back(name, matrix);
  std::vector<Entry> entries(added_.size());
  FileHeader header;
  header.entries = entries.size();
  int64_t at = Aligned(static_cast<int64_t>(sizeof(header) + entries.size() * sizeof(Entry)));
  const int64_t first = at;
  CpuThreads().Run(static_cast<int64_t>(entries.size()),
                   [&](int64_t i, int) { entries[i].crc = BlobCrc(added_[i].second->blob()); });
  for (size_t i = 0; i < entries.size(); ++i) {
    Entry& entry = entries[i];
    std::memcpy(entry.name, added_[i].first.data(), added_[i].first.size());
    entry.offset = at;
    entry.bytes = added_[i].second->blob().size();
    at = Aligned(at + static_cast<int64_t>(entry.bytes));
  }
  CHORD_RETURN_IF_ERROR(MakeRoom(at));
  const size_t table = entries.size() * sizeof(Entry);
  header.table_crc = Crc32c(Chars(entries.data(), table));
  const std::string zeros(kBlobAlign, '\0');
  std::vector<absl::string_view> pieces = {Chars(&header, sizeof(header)),
                                           Chars(entries.data(), table)};
  pieces.push_back(absl::string_view(zeros).substr(0, first - sizeof(header) - table));
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto blob = added_[i].second->blob();
    pieces.push_back(Chars(blob.data(), blob.size()));
    const auto size = static_cast<int64_t>(blob.size());
    pieces.push_back(absl::string_view(zeros).substr(0, Aligned(size) - size));
  }
  CHORD_RETURN_IF_ERROR(WriteFileAtomically(path_, pieces));
  added_.clear();
  return absl::OkStatus();
}

}  // namespace chord::engine
