#include "common/model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/atomic_file.h"
#include "common/base/checked_math.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/json/strict_json.h"

namespace chord::model {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

using nlohmann::json;

constexpr size_t kMaxNameBytes = 512;
constexpr size_t kMaxRank = 8;
constexpr int64_t kMaxMetadataBytes = 4LL << 20;

struct StoredType {
  absl::string_view name;
  int bits;
  DType dtype;
};
constexpr StoredType kTypes[] = {
    {"F32", 32, DType::kFloat32},      {"BF16", 16, DType::kBFloat16},
    {"F16", 16, DType::kFloat16},      {"I64", 64, DType::kInt64},
    {"BOOL", 8, DType::kOther},        {"U8", 8, DType::kOther},
    {"I8", 8, DType::kOther},          {"F8_E4M3", 8, DType::kOther},
    {"F8_E5M2", 8, DType::kOther},     {"F8_E8M0", 8, DType::kOther},
    {"F8_E4M3FNUZ", 8, DType::kOther}, {"F8_E5M2FNUZ", 8, DType::kOther},
    {"I16", 16, DType::kOther},        {"U16", 16, DType::kOther},
    {"I32", 32, DType::kInt32},        {"U32", 32, DType::kOther},
    {"F64", 64, DType::kOther},        {"C64", 64, DType::kOther},
    {"U64", 64, DType::kOther},        {"F4", 4, DType::kOther},
    {"F6_E2M3", 6, DType::kOther},     {"F6_E3M2", 6, DType::kOther},
};

// Bytes of a tensor, or nullopt when the product overflows or ends inside a byte.
std::optional<uint64_t> BytesOf(absl::Span<const int64_t> shape, int bits) {
  uint64_t count = 1;
  for (const int64_t dim : shape) {
    const auto next = CheckedMul(count, static_cast<uint64_t>(dim));
    if (!next) return std::nullopt;
    count = *next;
  }
  const auto total = CheckedMul(count, static_cast<uint64_t>(bits));
  if (!total || *total % 8 != 0) return std::nullopt;
  return *total / 8;
}

// Takes the header's events and builds the list; refuses at the first fault.
class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  std::string error;
  std::vector<StoredTensor> tensors;
  std::vector<int> bits;  // of an element, parallel to tensors

  bool key(string_t& name) override {
    if (where_ == kTop) return OpenEntry(name);
    if (where_ == kMetadata) {
      metadata_bytes_ += name.size();
      if (metadata_bytes_ > kMaxMetadataBytes) return Refuse("__metadata__ is too large");
      if (!metadata_keys_.insert(std::move(name)).second) {
        return Refuse("a key of __metadata__ occurs twice");
      }
      return true;
    }
    field_ = name == "dtype" ? kDType : name == "shape" ? kShape : kOffsets;
    if (field_ == kOffsets && name != "data_offsets") {
      return RefuseTensor(absl::StrCat("unknown field \"", Printable(name), "\""));
    }
    if ((seen_ & field_) != 0) return RefuseTensor("a field occurs twice");
    seen_ |= field_;
    return true;
  }

  bool start_object(size_t) override {
    if (where_ == kStart) {
      where_ = kTop;
      return true;
    }
    if (where_ != kTop) return Unexpected();
    where_ = in_metadata_ ? kMetadata : kEntry;
    return true;
  }

  bool end_object() override {
    if (where_ == kEntry) {
      if (seen_ != (kDType | kShape | kOffsets)) {
        return RefuseTensor("needs dtype, shape and data_offsets");
      }
      if (offsets_ != 2) return RefuseTensor("data_offsets needs two numbers");
    }
    where_ = where_ == kTop ? kEnd : kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (where_ != kEntry || field_ == kDType) return Unexpected();
    where_ = kArray;
    return true;
  }
  bool end_array() override {
    where_ = kEntry;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (where_ != kArray) return Unexpected();
    if (value > static_cast<uint64_t>(INT64_MAX)) return RefuseTensor("a number beyond 2^63");
    StoredTensor& tensor = tensors.back();
    if (field_ == kShape) {
      if (tensor.shape.size() == kMaxRank) return RefuseTensor("more than 8 dimensions");
      tensor.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (offsets_ == 2) return RefuseTensor("data_offsets needs two numbers");
    (offsets_++ == 0 ? tensor.begin : tensor.end) = static_cast<int64_t>(value);
    return true;
  }

  bool string(string_t& value) override {
    if (where_ == kMetadata) {
      metadata_bytes_ += value.size();
      return metadata_bytes_ <= kMaxMetadataBytes || Refuse("__metadata__ is too large");
    }
    if (where_ != kEntry || field_ != kDType) return Unexpected();
    for (const StoredType& type : kTypes) {
      if (value != type.name) continue;
      tensors.back().dtype = type.dtype;
      bits.back() = type.bits;
      return true;
    }
    return RefuseTensor(absl::StrCat("unknown dtype \"", Printable(value), "\""));
  }

  bool null() override { return Unexpected(); }
  bool boolean(bool) override { return Unexpected(); }
  bool number_integer(number_integer_t) override { return Unexpected(); }
  bool number_float(number_float_t, const string_t&) override { return Unexpected(); }
  bool binary(binary_t&) override { return Unexpected(); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Refuse(absl::StrCat("the header is not valid JSON at byte ", position));
  }

 private:
  enum Where { kStart, kTop, kEntry, kArray, kMetadata, kEnd };
  enum Field { kDType = 1, kShape = 2, kOffsets = 4 };

  bool OpenEntry(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    if (in_metadata_) return !std::exchange(had_metadata_, true) || Refuse("two __metadata__");
    if (name.empty()) return Refuse("a tensor has no name");
    if (name.size() > kMaxNameBytes) {
      return Refuse(absl::StrCat("the name of tensor ", Printable(name), " is too long"));
    }
    if (static_cast<int64_t>(tensors.size()) == limits::kMaxTensors) {
      return Refuse(absl::StrCat("more than ", limits::kMaxTensors, " tensors"));
    }
    tensors.emplace_back().name = std::string(name);  // a copy: the parser's buffer has slack
    bits.push_back(0);
    seen_ = 0;
    offsets_ = 0;
    return true;
  }

  bool Refuse(absl::string_view why) {
    error = std::string(why);
    return false;
  }
  bool RefuseTensor(absl::string_view why) {
    return Refuse(absl::StrCat("tensor ", Printable(tensors.back().name), ": ", why));
  }
  bool Unexpected() {
    if (where_ == kEntry || where_ == kArray) return RefuseTensor("a value of the wrong type");
    return Refuse(where_ == kMetadata ? "__metadata__ must map strings to strings"
                                      : "the header must map names to tensors");
  }

  Where where_ = kStart;
  Field field_ = kDType;
  int seen_ = 0;
  int offsets_ = 0;
  bool in_metadata_ = false;
  bool had_metadata_ = false;
  int64_t metadata_bytes_ = 0;
  absl::flat_hash_set<std::string> metadata_keys_;
};

std::string RangeText(const StoredTensor& tensor) {
  return absl::StrCat("[", tensor.begin, ", ", tensor.end, "]");
}

absl::Status CheckNamesDiffer(absl::Span<const StoredTensor> tensors) {
  absl::flat_hash_set<absl::string_view> names;
  names.reserve(tensors.size());
  for (const StoredTensor& tensor : tensors) {
    if (names.insert(tensor.name).second) continue;
    return errors::CheckpointInvalid(
        absl::StrCat("tensor ", Printable(tensor.name), " occurs twice"));
  }
  return absl::OkStatus();
}

absl::Status NotWritten(const std::string& path, absl::string_view why) {
  return errors::FileNotWritten(absl::StrCat(Printable(path), ": ", why));
}

// The reference library's order of types: wider alignment first, then its own enum, descending.
int TypeRank(DType dtype) {
  switch (dtype) {
    case DType::kInt64:
      return 0;
    case DType::kFloat32:
      return 1;
    case DType::kBFloat16:
      return 2;
    case DType::kFloat16:
      return 3;
    case DType::kInt32:
      return 4;
    case DType::kOther:
      break;
  }
  return 5;
}

}  // namespace

int64_t SizeOf(DType dtype) {
  for (const StoredType& type : kTypes) {
    if (type.dtype == dtype && dtype != DType::kOther) return type.bits / 8;
  }
  return 0;
}

absl::string_view DTypeName(DType dtype) {
  for (const StoredType& type : kTypes) {
    if (type.dtype == dtype && dtype != DType::kOther) return type.name;
  }
  return "other";
}

absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::Span<const std::byte> file) {
  uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    return errors::CheckpointInvalid("too short to be a safetensors file; was it cut?");
  }
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  if (header_bytes > static_cast<uint64_t>(limits::kMaxSafetensorsHeaderBytes)) {
    return errors::CheckpointInvalid(absl::StrCat("not a safetensors file, or its header is over ",
                                                  limits::kMaxSafetensorsHeaderBytes, " bytes"));
  }
  if (header_bytes > file.size() - sizeof(header_bytes)) {
    return errors::CheckpointInvalid("the header reaches behind the end of the file; was it cut?");
  }
  const absl::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(header_bytes),
                               header_bytes);
  if (text.empty() || text.front() != '{') {
    return errors::CheckpointInvalid("the header does not begin with '{'");
  }
  // Counts are bounded by the reader itself; 16 values is what one tensor of rank 8 can have.
  CHORD_RETURN_IF_ERROR(CheckJsonBounds(
      text, {.depth = 3, .values = limits::kMaxTensors * 16, .string_bytes = 1 << 20}));

  HeaderReader reader;
  try {
    if (!json::sax_parse(text.begin(), text.end(), &reader)) {
      return errors::CheckpointInvalid(reader.error);
    }
  } catch (const std::exception&) {
    return errors::CheckpointInvalid("the header is not valid JSON");
  }
  CHORD_RETURN_IF_ERROR(CheckNamesDiffer(reader.tensors));

  const uint64_t data_bytes = file.size() - sizeof(header_bytes) - header_bytes;
  for (size_t i = 0; i < reader.tensors.size(); ++i) {
    const StoredTensor& tensor = reader.tensors[i];
    const auto refuse = [&](absl::string_view why) {
      return errors::CheckpointInvalid(absl::StrCat("tensor ", Printable(tensor.name), ": ", why));
    };
    const auto bytes = BytesOf(tensor.shape, reader.bits[i]);
    if (!bytes)
      return refuse(absl::StrCat("shape [", absl::StrJoin(tensor.shape, ", "),
                                 "] is beyond any memory or ends inside a byte"));
    if (tensor.begin > tensor.end) return refuse("data_offsets run backwards");
    if (static_cast<uint64_t>(tensor.end) > data_bytes) {
      return refuse("its data reaches behind the end of the file; was the file cut?");
    }
    if (static_cast<uint64_t>(tensor.end - tensor.begin) != *bytes) {
      return refuse(absl::StrCat("data_offsets ", RangeText(tensor), " do not hold the ", *bytes,
                                 " bytes of its shape"));
    }
  }

  SafetensorsHeader header;
  header.data_offset = static_cast<int64_t>(sizeof(header_bytes) + header_bytes);
  header.tensors = std::move(reader.tensors);
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) {
              return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
            });
  int64_t end = 0;
  for (const StoredTensor& tensor : header.tensors) {
    if (tensor.begin != end) {
      return errors::CheckpointInvalid(
          absl::StrCat("tensor ", Printable(tensor.name), ": its data ", RangeText(tensor),
                       tensor.begin < end ? " overlaps another tensor's" : " follows a hole"));
    }
    end = tensor.end;
  }
  if (static_cast<uint64_t>(end) != data_bytes) {
    return errors::CheckpointInvalid(
        absl::StrCat("the file has ", data_bytes - end, " bytes behind its last tensor"));
  }
  return header;
}

absl::Status WriteSafetensors(const std::string& path, absl::Span<const NamedTensor> tensors) {
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return std::make_pair(TypeRank(a->dtype), absl::string_view(a->name)) <
           std::make_pair(TypeRank(b->dtype), absl::string_view(b->name));
  });

  std::string header(sizeof(uint64_t), '\0');
  header += '{';
  absl::flat_hash_set<absl::string_view> names;
  uint64_t offset = 0;
  for (const NamedTensor* tensor : order) {
    const bool negative = std::any_of(tensor->shape.begin(), tensor->shape.end(),
                                      [](int64_t dim) { return dim < 0; });
    const auto bytes = BytesOf(tensor->shape, static_cast<int>(SizeOf(tensor->dtype) * 8));
    if (SizeOf(tensor->dtype) == 0 || negative || !bytes || *bytes != tensor->data.size()) {
      return NotWritten(path, absl::StrCat("tensor ", Printable(tensor->name),
                                           " has no such type, or its data not its shape's size"));
    }
    if (tensor->name.empty() || tensor->name == "__metadata__" ||
        !names.insert(tensor->name).second) {
      return NotWritten(path, absl::StrCat("the tensor name ", Printable(tensor->name),
                                           " is reserved or used twice"));
    }
    std::string quoted;
    try {
      quoted = json(tensor->name).dump();
    } catch (const json::exception&) {
      return NotWritten(path, "a tensor name is not UTF-8");
    }
    absl::StrAppend(&header, names.size() > 1 ? "," : "", quoted, ":{\"dtype\":\"",
                    DTypeName(tensor->dtype), "\",\"shape\":[", absl::StrJoin(tensor->shape, ","),
                    "],\"data_offsets\":[", offset, ",", offset + *bytes, "]}");
    offset += *bytes;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = header.size() - sizeof(uint64_t);
  std::memcpy(header.data(), &header_bytes, sizeof(header_bytes));

  std::vector<absl::string_view> pieces = {header};
  for (const NamedTensor* tensor : order) {
    pieces.emplace_back(reinterpret_cast<const char*>(tensor->data.data()), tensor->data.size());
  }
  return WriteFileAtomically(path, pieces);
}

}  // namespace chord::model
