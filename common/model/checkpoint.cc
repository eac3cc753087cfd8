#include "common/model/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/model/model_folder.h"
#include "common/model/weight_files.h"

namespace chord::model {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status FileError(absl::string_view file, absl::string_view why) {
  return errors::CheckpointInvalid(absl::StrCat(Printable(file), ": ", why));
}

// The first few names, and how many there are.
std::string Listing(absl::Span<const std::string> items) {
  constexpr size_t kShown = 8;
  std::string text = absl::StrJoin(items.subspan(0, kShown), ", ");
  if (items.size() > kShown) absl::StrAppend(&text, ", and ", items.size() - kShown, " more");
  return text;
}

// "….up_proj.scales" where "….up_proj.weight" is a tensor of the model.
bool IsQuantizedPart(absl::string_view name, const absl::flat_hash_set<std::string>& known) {
  for (const absl::string_view part : {".qweight", ".qzeros", ".scales", ".g_idx"}) {
    if (absl::EndsWith(name, part)) {
      return known.contains(absl::StrCat(absl::StripSuffix(name, part), ".weight"));
    }
  }
  return false;
}

}  // namespace

struct Checkpoint::Impl {
  std::string dir;
  std::vector<MappedFile> files;
  absl::flat_hash_map<std::string, TensorView> tensors;
  absl::flat_hash_map<std::string, std::string> stored_names;  // canonical -> as in the file
  int64_t total_bytes = 0;
  std::vector<std::string> warnings;

  absl::Status Add(absl::string_view file, const StoredTensor& tensor, const std::byte* data);
  absl::Status AddFile(const std::string& name, const WeightFiles& weights, size_t* mapped);
};

absl::Status Checkpoint::Impl::Add(absl::string_view file, const StoredTensor& tensor,
                                   const std::byte* data) {
  MappedName name = MapTensorName(tensor.name);
  switch (name.kind) {
    case NameKind::kIgnored:
      return absl::OkStatus();
    case NameKind::kAdapter:
      return FileError(file, absl::StrCat("tensor ", Printable(tensor.name),
                                          " belongs to an adapter (LoRA). Merge it into its base "
                                          "model first."));
    case NameKind::kQuantized:
      return FileError(file, absl::StrCat("tensor ", Printable(tensor.name),
                                          " belongs to a quantised layout that is not read. Use "
                                          "the BF16, F16 or F32 weights, or AWQ or GPTQ ones."));
    case NameKind::kWeight:
      break;
  }
  if (static_cast<int64_t>(tensors.size()) == limits::kMaxTensors) {
    return FileError(file, absl::StrCat("more than ", limits::kMaxTensors, " tensors"));
  }
  const auto [stored, fresh] = stored_names.emplace(name.canonical, tensor.name);
  if (!fresh) {
    return FileError(
        file, absl::StrCat("tensors ", Printable(stored->second), " and ", Printable(tensor.name),
                           " are both ", Printable(name.canonical)));
  }
  const int64_t bytes = tensor.end - tensor.begin;
  tensors.emplace(std::move(name.canonical),
                  TensorView{tensor.dtype, tensor.shape, data + tensor.begin, bytes});
  total_bytes += bytes;
  return absl::OkStatus();
}

// `mapped` counts the tensors that the index promised and this file has.
absl::Status Checkpoint::Impl::AddFile(const std::string& name, const WeightFiles& weights,
                                       size_t* mapped) {
  CHORD_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(dir, name));
  auto header = ParseSafetensors(file.bytes());
  if (!header.ok()) return FileError(name, header.status().message());
  for (const StoredTensor& tensor : header->tensors) {
    if (!weights.map.empty()) {
      const auto entry = weights.map.find(tensor.name);
      if (entry == weights.map.end() || entry->second != name) {
        return FileError(name, absl::StrCat("the index does not place tensor ",
                                            Printable(tensor.name), " in this file"));
      }
      ++*mapped;
    }
    CHORD_RETURN_IF_ERROR(Add(name, tensor, file.bytes().data() + header->data_offset));
  }
  files.push_back(std::move(file));
  return absl::OkStatus();
}

Checkpoint::Checkpoint() : impl_(std::make_unique<Impl>()) {}
Checkpoint::~Checkpoint() = default;

absl::StatusOr<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const std::string& path) {
  CHORD_ASSIGN_OR_RETURN(const std::string dir, ResolveModelFolder(path));
  CHORD_ASSIGN_OR_RETURN(WeightFiles weights, FindWeightFiles(dir));
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint);
  Impl& impl = *checkpoint->impl_;
  impl.dir = dir;
  impl.warnings = std::move(weights.warnings);

  std::vector<std::string> absent;
  for (const std::string& name : weights.names) {
    if (!FileExists(dir, name)) absent.push_back(Printable(name));
  }
  if (!absent.empty()) {
    return errors::CheckpointInvalid(absl::StrCat(
        "The index names files that are missing: ", Listing(absent), ". Is the folder complete?"));
  }
  size_t mapped = 0;
  for (const std::string& name : weights.names) {
    CHORD_RETURN_IF_ERROR(impl.AddFile(name, weights, &mapped));
  }
  if (mapped != weights.map.size()) {
    std::vector<std::string> missing;
    for (const auto& [tensor, file] : weights.map) {
      const MappedName name = MapTensorName(tensor);
      const auto stored = impl.stored_names.find(name.canonical);
      if (name.kind == NameKind::kWeight && stored == impl.stored_names.end()) {
        missing.push_back(absl::StrCat(Printable(tensor), " (", Printable(file), ")"));
      }
    }
    if (!missing.empty()) {
      return errors::CheckpointInvalid(
          absl::StrCat("The index names tensors that its files lack: ", Listing(missing)));
    }
  }
  if (weights.total_size && *weights.total_size != impl.total_bytes) {
    impl.warnings.push_back(absl::StrCat("the index claims ", *weights.total_size,
                                         " bytes of tensors, the files hold ", impl.total_bytes));
  }
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

const TensorView* Checkpoint::Find(absl::string_view canonical_name) const {
  const auto found = impl_->tensors.find(canonical_name);
  return found == impl_->tensors.end() ? nullptr : &found->second;
}

absl::StatusOr<TensorView> Checkpoint::Get(absl::string_view canonical_name,
                                           absl::Span<const int64_t> shape) const {
  const TensorView* tensor = Find(canonical_name);
  if (tensor == nullptr) {
    const absl::string_view layer = absl::StripSuffix(canonical_name, ".weight");
    if (Has(absl::StrCat(layer, ".qweight"))) {
      return errors::CheckpointInvalid(absl::StrCat(
          "layer ", layer, " is stored quantised, which the device cpu alone computes from"));
    }
    return errors::CheckpointInvalid(absl::StrCat("tensor ", canonical_name, " is missing"));
  }
  if (absl::Span<const int64_t>(tensor->shape) != shape) {
    return errors::CheckpointInvalid(absl::StrCat("tensor ", canonical_name, " is ",
                                                  ShapeText(tensor->shape), ", the config needs ",
                                                  ShapeText(shape)));
  }
  // What computes from it reads as many bytes as a floating type of that shape has.
  if (!IsFloat(tensor->dtype)) {
    return errors::CheckpointInvalid(
        absl::StrCat("tensor ", canonical_name, " is not BF16, F16 or F32"));
  }
  return *tensor;
}

std::vector<std::string> Checkpoint::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : impl_->tensors) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

const std::string& Checkpoint::dir() const { return impl_->dir; }
int64_t Checkpoint::total_bytes() const { return impl_->total_bytes; }
const std::vector<std::string>& Checkpoint::warnings() const { return impl_->warnings; }

std::string EmbeddingTensor(const Checkpoint& checkpoint, const TextConfig& config) {
  const bool head_alone =
      config.tie_word_embeddings && !checkpoint.Has(kEmbedding) && checkpoint.Has(kHead);
  return head_alone ? kHead : kEmbedding;
}

std::string HeadTensor(const Checkpoint& checkpoint, const TextConfig& config) {
  if (!config.tie_word_embeddings) return kHead;
  const TensorView* embedding = checkpoint.Find(kEmbedding);
  const TensorView* head = checkpoint.Find(kHead);
  if (head == nullptr) return kEmbedding;
  if (embedding == nullptr) return kHead;
  const bool equal = head->dtype == embedding->dtype && head->shape == embedding->shape &&
                     std::memcmp(head->data, embedding->data, head->bytes) == 0;
  return equal ? kEmbedding : kHead;
}

absl::Status VerifyTensors(const Checkpoint& checkpoint, const ModelConfig& config, ModelPart part,
                           std::vector<std::string>* warnings) {
  std::vector<std::string> missing, wrong;
  std::vector<ExpectedTensor> wanted = ExpectedTensors(config, part);
  const std::string embedding = EmbeddingTensor(checkpoint, config.text);
  const bool stored_head = part != ModelPart::kVision && config.text.tie_word_embeddings &&
                           HeadTensor(checkpoint, config.text) != embedding;
  for (ExpectedTensor& expected : wanted) {
    if (expected.name == kEmbedding) expected.name = embedding;
  }
  if (stored_head) {
    ExpectedTensor head;
    head.name = kHead;
    head.shape = {config.text.vocab_size, config.text.hidden_size};
    wanted.push_back(std::move(head));
  }
  for (const ExpectedTensor& expected : wanted) {
    const TensorView* tensor = checkpoint.Find(expected.name);
    const std::string layer(absl::StripSuffix(expected.name, ".weight"));
    if (tensor == nullptr && expected.may_be_quantized && config.quantization &&
        checkpoint.Has(absl::StrCat(layer, ".qweight"))) {
      for (const char* piece : {".qzeros", ".scales"}) {
        if (!checkpoint.Has(absl::StrCat(layer, piece))) missing.push_back(layer + piece);
      }
    } else if (tensor == nullptr) {
      missing.push_back(expected.name);
    } else if (tensor->shape != expected.shape) {
      wrong.push_back(absl::StrCat(expected.name, " is ", ShapeText(tensor->shape), ", not ",
                                   ShapeText(expected.shape)));
    } else if (!IsFloat(tensor->dtype)) {
      wrong.push_back(absl::StrCat(expected.name, " is not BF16, F16 or F32"));
    }
  }
  if (!missing.empty() || !wrong.empty()) {
    std::vector<std::string> parts;
    if (!missing.empty()) {
      parts.push_back(absl::StrCat(missing.size(), " tensors are missing: ", Listing(missing)));
    }
    if (!wrong.empty()) {
      parts.push_back(
          absl::StrCat(wrong.size(), " tensors disagree with config.json: ", Listing(wrong)));
    }
    return errors::CheckpointInvalid(absl::StrJoin(parts, "; "));
  }
  if (warnings == nullptr) return absl::OkStatus();

  absl::flat_hash_set<std::string> known;
  for (ExpectedTensor& expected : ExpectedTensors(config, ModelPart::kBoth)) {
    known.insert(std::move(expected.name));
  }
  std::vector<std::string> unexpected;
  for (std::string& name : checkpoint.Names()) {
    if (name == kHead || known.contains(name)) continue;
    if (config.quantization && IsQuantizedPart(name, known)) continue;
    unexpected.push_back(Printable(name));
  }
  if (!unexpected.empty()) {
    warnings->push_back(
        absl::StrCat(unexpected.size(), " tensors are not used: ", Listing(unexpected)));
  }
  if (stored_head) {
    warnings->push_back(
        "tie_word_embeddings is true, but the stored lm_head.weight differs from the embedding and "
        "is used");
  }
  return absl::OkStatus();
}

}  // namespace chord::model
