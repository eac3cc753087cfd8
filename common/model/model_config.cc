#include "common/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/json/strict_json.h"
#include "common/model/model_folder.h"

namespace chord::model {
namespace {

using nlohmann::json;

// Bounds far beyond any model, small enough that no product of two or three of them overflows.
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxSide = 4096;
constexpr int64_t kMaxPixels = int64_t{1} << 40;
// What an image of one pixel may become on its way to the model: values of all its patches. The
// published settings make 18,816 of it; this is 512 MiB.
constexpr int64_t kMaxSmallestImage = int64_t{1} << 27;
constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();

constexpr int32_t kReferenceEos = 151645;  // the default of the reference class

// One object of a file. Getters note the first fault and go on with a harmless value, so that the
// reading code stays a list of fields; status() is looked at once, before any value is used.
// null counts as absent.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const absl::Status& status() const { return status_; }
  void Refuse(absl::string_view key, absl::string_view why) {
    if (status_.ok()) {
      status_ = errors::CheckpointInvalid(absl::StrCat(where_, key, ": ", why));
    }
  }

  const json* Find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  bool IsNull(const char* key) const {
    const auto found = object_.find(key);
    return found != object_.end() && found->is_null();
  }
  // The object at `key`, or nullptr; anything but an object is a fault.
  const json* Object(const char* key) {
    const json* value = Find(key);
    if (value == nullptr || value->is_object()) return value;
    Refuse(key, "must be an object");
    return nullptr;
  }

  int64_t Int(const char* key, int64_t low, int64_t high) {
    const json* value = Find(key);
    if (value != nullptr) return AsInt(key, *value, low, high);
    Refuse(key, absl::StrCat("is missing; it must be ", Range(low, high)));
    return low;
  }
  int64_t IntOr(const char* key, int64_t low, int64_t high, int64_t fallback) {
    const json* value = Find(key);
    return value == nullptr ? fallback : AsInt(key, *value, low, high);
  }
  // An integer or a list of equal integers.
  int64_t SideOr(const char* key, int64_t high, int64_t fallback) {
    const json* value = Find(key);
    if (value == nullptr || !value->is_array()) return IntOr(key, 1, high, fallback);
    const std::vector<int> list = IntsOr(key, 1, high, {});
    if (!list.empty() &&
        std::all_of(list.begin(), list.end(), [&](int side) { return side == list.front(); })) {
      return list.front();
    }
    Refuse(key, "must be an integer or a list of equal integers");
    return fallback;
  }
  std::vector<int> IntsOr(const char* key, int64_t low, int64_t high, std::vector<int> fallback) {
    constexpr size_t kMaxItems = 8192;
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_array() || value->size() > kMaxItems) {
      Refuse(key, "must be a list of integers");
      return fallback;
    }
    std::vector<int> list;
    for (const json& item : *value) {
      list.push_back(static_cast<int>(AsInt(key, item, low, high)));
    }
    return list;
  }
  // One id or a list of them; empty when absent.
  std::vector<int> Ids(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return {};
    if (value->is_array()) return IntsOr(key, 0, kMaxId, {});
    return {static_cast<int>(AsInt(key, *value, 0, kMaxId))};
  }
  double PositiveOr(const char* key, double fallback) {
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    const double number = value->is_number() ? value->get<double>() : 0;
    // Also as the float it may become.
    if (number > 0 && static_cast<float>(number) > 0 &&
        number <= std::numeric_limits<float>::max()) {
      return number;
    }
    Refuse(key, "must be a positive, finite number");
    return fallback;
  }
  bool BoolOr(const char* key, bool fallback) {
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) Refuse(key, "must be true or false");
    return value->is_boolean() ? value->get<bool>() : fallback;
  }
  std::string TextOr(const char* key, const std::string& fallback) {
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) Refuse(key, "must be a text");
    return value->is_string() ? Printable(value->get_ref<const std::string&>()) : fallback;
  }
  // Three numbers, or one for all three channels.
  std::array<float, 3> ChannelsOr(const char* key, std::array<float, 3> fallback, bool positive) {
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    const bool one = value->is_number();
    if (!one && (!value->is_array() || value->size() != 3)) {
      Refuse(key, "must be three numbers");
      return fallback;
    }
    std::array<float, 3> channels;
    for (size_t i = 0; i < channels.size(); ++i) {
      const json& item = one ? *value : (*value)[i];
      channels[i] = item.is_number() ? static_cast<float>(item.get<double>()) : NAN;
      if (!std::isfinite(channels[i]) || (positive && channels[i] <= 0)) {
        Refuse(key, positive ? "must be positive, finite numbers" : "must be finite numbers");
        return fallback;
      }
    }
    return channels;
  }

 private:
  static std::string Range(int64_t low, int64_t high) {
    return absl::StrCat("an integer from ", low, " to ", high);
  }
  int64_t AsInt(const char* key, const json& value, int64_t low, int64_t high) {
    // A number_unsigned beyond int64 turns negative here and falls out of every range but one
    // that allows negatives, which none does.
    if (value.is_number_integer()) {
      const auto number = value.get<int64_t>();
      if (number >= low && number <= high) return number;
    }
    Refuse(key, absl::StrCat("must be ", Range(low, high)));
    return low;
  }

  const json& object_;
  std::string where_;
  absl::Status status_;
};

absl::StatusOr<json> Parse(absl::string_view file, absl::string_view text) {
  auto parsed = ParseStrictJson(text);
  if (parsed.ok()) return parsed;
  return errors::CheckpointInvalid(absl::StrCat(file, ": ", parsed.status().message()));
}

void RequireSilu(Fields* fields) {
  const std::string name = fields->TextOr("hidden_act", "silu");
  if (name != "silu" && name != "swish") {
    fields->Refuse("hidden_act", absl::StrCat("\"", name, "\" is not implemented, only silu"));
  }
}

// An explicit head_dim is accepted where it says what the other two fields say: the reference
// attention divides hidden_size by the heads whatever it claims. The flat layout has no such field
// (`explicit_dim` false): there it is one of the strangers that are not looked at.
void RequireHeads(Fields* fields, int hidden, int heads, const char* heads_key, bool explicit_dim) {
  if (heads > 0 && hidden % heads != 0) {
    fields->Refuse(heads_key, absl::StrCat(heads, " does not divide hidden_size ", hidden));
  } else if (heads > 0 && explicit_dim &&
             fields->IntOr("head_dim", 1, kMaxWidth, hidden / heads) != hidden / heads) {
    fields->Refuse("head_dim",
                   absl::StrCat("must be hidden_size / ", heads_key, " = ", hidden / heads));
  }
}

void RequireFullAttention(Fields* fields, int layers) {
  bool slides = false;
  if (const json* types = fields->Find("layer_types"); types != nullptr) {
    slides = !types->is_array() || std::any_of(types->begin(), types->end(), [](const json& type) {
      return type != "full_attention";
    });
  } else if (fields->BoolOr("use_sliding_window", false) && !fields->IsNull("sliding_window")) {
    slides = fields->IntOr("max_window_layers", 0, kMaxId, 80) < layers;
  }
  if (slides) {
    fields->Refuse("use_sliding_window", "sliding window attention is not implemented");
  }
}

absl::Status ReadRope(Fields* fields, TextConfig* text) {
  static const json kNone = json::object();
  const json* rope = fields->Object("rope_scaling");
  if (rope == nullptr || rope->empty()) rope = fields->Object("rope_parameters");
  if (rope == nullptr) rope = &kNone;
  Fields inner(*rope, "config.json: rope.");
  const std::string kind = inner.TextOr("rope_type", inner.TextOr("type", "default"));
  if (kind != "default" && kind != "mrope") {
    inner.Refuse("rope_type", absl::StrCat("\"", kind, "\" is not implemented"));
  }
  text->rope_theta = inner.PositiveOr("rope_theta", fields->PositiveOr("rope_theta", 1e6));
  text->mrope_section = inner.IntsOr("mrope_section", 0, kMaxWidth, {16, 24, 24});
  const std::vector<int>& sections = text->mrope_section;
  if (inner.status().ok() && fields->status().ok() &&
      (sections.size() != 3 || text->head_dim % 2 != 0 ||
       std::accumulate(sections.begin(), sections.end(), int64_t{0}) != text->head_dim / 2)) {
    inner.Refuse("mrope_section", absl::StrCat("must be three numbers that sum to half of the head "
                                               "size, ",
                                               text->head_dim / 2.0));
  }
  return inner.status();
}

absl::StatusOr<TextConfig> ReadText(const json& object, bool nested) {
  Fields fields(object, nested ? "config.json: text_config." : "config.json: ");
  TextConfig text;
  text.hidden_size = static_cast<int>(fields.Int("hidden_size", 1, kMaxWidth));
  text.num_hidden_layers = static_cast<int>(fields.Int("num_hidden_layers", 1, kMaxLayers));
  text.num_attention_heads = static_cast<int>(fields.Int("num_attention_heads", 1, kMaxHeads));
  text.intermediate_size = static_cast<int>(fields.Int("intermediate_size", 1, kMaxWidth));
  text.vocab_size = static_cast<int>(fields.Int("vocab_size", 1, kMaxVocab));
  RequireHeads(&fields, text.hidden_size, text.num_attention_heads, "num_attention_heads", nested);
  text.head_dim = text.hidden_size / text.num_attention_heads;
  // null means one per head; of an absent key the reference class makes 8, where that can be.
  const bool absent = !object.contains("num_key_value_heads");
  const int heads = text.num_attention_heads;
  text.num_key_value_heads = static_cast<int>(
      fields.IntOr("num_key_value_heads", 1, kMaxHeads, absent && heads % 8 == 0 ? 8 : heads));
  if (heads % text.num_key_value_heads != 0) {
    fields.Refuse(
        "num_key_value_heads",
        absl::StrCat(text.num_key_value_heads, " does not divide num_attention_heads ", heads));
  }
  text.rms_norm_eps = static_cast<float>(fields.PositiveOr("rms_norm_eps", 1e-5));
  text.max_position_embeddings = fields.IntOr("max_position_embeddings", 1, kMaxId, 32768);
  RequireSilu(&fields);
  RequireFullAttention(&fields, text.num_hidden_layers);
  CHORD_RETURN_IF_ERROR(ReadRope(&fields, &text));
  CHORD_RETURN_IF_ERROR(fields.status());
  return text;
}

absl::StatusOr<VisionConfig> ReadVision(const json& object, std::vector<std::string>* warnings) {
  Fields fields(object, "config.json: vision_config.");
  VisionConfig vision;
  vision.depth = static_cast<int>(fields.IntOr("depth", 1, kMaxLayers, 32));
  vision.hidden_size = static_cast<int>(fields.Int("hidden_size", 1, kMaxWidth));
  const char* heads_key = fields.Find("num_heads") == nullptr ? "num_attention_heads" : "num_heads";
  vision.num_heads = static_cast<int>(fields.IntOr(heads_key, 1, kMaxHeads, 16));
  vision.intermediate_size =
      static_cast<int>(fields.IntOr("intermediate_size", 1, kMaxWidth, 3420));
  vision.out_hidden_size = static_cast<int>(fields.Int("out_hidden_size", 1, kMaxWidth));
  if (fields.IntOr("in_channels", 1, kMaxSide, 3) != 3) {
    fields.Refuse("in_channels", "only 3 is implemented");
  }
  vision.patch_size = static_cast<int>(fields.SideOr("patch_size", kMaxSide, 14));
  vision.temporal_patch_size = static_cast<int>(fields.SideOr("temporal_patch_size", 64, 2));
  vision.spatial_merge_size = static_cast<int>(fields.IntOr("spatial_merge_size", 1, 64, 2));
  vision.window_size = static_cast<int>(fields.IntOr("window_size", 1, kMaxWidth, 112));
  const std::vector<int> full = fields.IntsOr("fullatt_block_indexes", 0, kMaxId, {7, 15, 23, 31});
  RequireSilu(&fields);
  RequireHeads(&fields, vision.hidden_size, vision.num_heads, heads_key, /*explicit_dim=*/true);
  CHORD_RETURN_IF_ERROR(fields.status());

  // Of every head a quarter turns with y and a quarter with x, in pairs (spec §3.2).
  if (vision.head_dim() % 4 != 0) {
    fields.Refuse(heads_key,
                  absl::StrCat("the head size ", vision.head_dim(), " is not a multiple of 4"));
  }
  if (vision.window_cells() < 1) {
    fields.Refuse("window_size", "is smaller than patch_size * spatial_merge_size");
  }
  vision.fullatt_block_indexes.clear();
  for (const int index : full) {
    if (index < vision.depth) vision.fullatt_block_indexes.push_back(index);
  }
  if (vision.fullatt_block_indexes.size() != full.size()) {
    warnings->push_back("vision_config.fullatt_block_indexes names blocks beyond depth");
  }
  static const json kNone = json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* rope = fields.Object(key);
    Fields inner(rope == nullptr ? kNone : *rope, "config.json: vision_config.rope.");
    const std::string kind = inner.TextOr("rope_type", inner.TextOr("type", "axial"));
    if ((kind != "axial" && kind != "default") || inner.PositiveOr("rope_theta", 10000) != 10000) {
      inner.Refuse(key, "only the axial kind with theta 10000 is implemented");
    }
    CHORD_RETURN_IF_ERROR(inner.status());
  }
  if (fields.PositiveOr("rope_theta", 10000) != 10000) {
    fields.Refuse("rope_theta", "only 10000 is implemented");
  }
  CHORD_RETURN_IF_ERROR(fields.status());
  return vision;
}

// Fills geometry and normalization. `object` is the image processor's settings, empty without any.
absl::Status ReadProcessor(const json& object, const std::string& file, ModelConfig* config) {
  Fields fields(object, file + ": ");
  image::PatchGeometry& geometry = config->geometry;
  const VisionConfig& vision = config->vision;
  geometry.patch_size = static_cast<int>(fields.SideOr("patch_size", kMaxSide, vision.patch_size));
  geometry.temporal_patch_size =
      static_cast<int>(fields.SideOr("temporal_patch_size", 64, vision.temporal_patch_size));
  geometry.merge_size =
      static_cast<int>(fields.IntOr("merge_size", 1, 64, vision.spatial_merge_size));
  if (geometry.patch_size != vision.patch_size ||
      geometry.temporal_patch_size != vision.temporal_patch_size ||
      geometry.merge_size != vision.spatial_merge_size) {
    fields.Refuse("patch_size, temporal_patch_size, merge_size",
                  "differ from vision_config of config.json");
  }

  if (const json* size = fields.Object("size"); size != nullptr) {
    Fields edges(*size, file + ": size.");
    // Files of transformers 4.45 to 4.48 have the other names in here, too.
    for (const char* key : {"min_pixels", "shortest_edge"}) {
      geometry.min_pixels = edges.IntOr(key, 1, kMaxPixels, geometry.min_pixels);
    }
    for (const char* key : {"max_pixels", "longest_edge"}) {
      geometry.max_pixels = edges.IntOr(key, 1, kMaxPixels, geometry.max_pixels);
    }
    CHORD_RETURN_IF_ERROR(edges.status());
  }
  geometry.min_pixels = fields.IntOr("min_pixels", 1, kMaxPixels, geometry.min_pixels);
  geometry.max_pixels = fields.IntOr("max_pixels", 1, kMaxPixels, geometry.max_pixels);
  if (geometry.min_pixels > geometry.max_pixels) {
    fields.Refuse("min_pixels", absl::StrCat(geometry.min_pixels, " is more than max_pixels ",
                                             geometry.max_pixels));
  }

  const int64_t factor = int64_t{geometry.patch_size} * geometry.merge_size;
  if (std::max(factor * factor, geometry.min_pixels) >
      kMaxSmallestImage / (3 * geometry.temporal_patch_size)) {
    fields.Refuse("min_pixels, patch_size, merge_size, temporal_patch_size",
                  "would enlarge the smallest image beyond reason");
  }

  image::Normalization& norm = config->normalization;
  norm.mean = fields.ChannelsOr("image_mean", norm.mean, false);
  norm.std = fields.ChannelsOr("image_std", norm.std, true);
  for (const char* step : {"do_resize", "do_rescale", "do_normalize"}) {
    if (!fields.BoolOr(step, true)) fields.Refuse(step, "false is not implemented");
  }
  if (std::abs(fields.PositiveOr("rescale_factor", 1 / 255.0) * 255 - 1) > 1e-9) {
    fields.Refuse("rescale_factor", "only 1/255 is implemented");
  }
  if (fields.IntOr("resample", 0, 5, 3) != 3) {
    fields.Refuse("resample", "only 3 (bicubic) is implemented");
  }
  return fields.status();
}

// The nested settings of transformers 5.x win over the file of their own, as they do there.
absl::Status ReadProcessors(const ConfigTexts& texts, ModelConfig* config) {
  if (texts.processor) {
    constexpr char kFile[] = "processor_config.json";
    CHORD_ASSIGN_OR_RETURN(const json whole, Parse(kFile, *texts.processor));
    Fields fields(whole, absl::StrCat(kFile, ": "));
    const json* nested = fields.Object("image_processor");
    CHORD_RETURN_IF_ERROR(fields.status());
    if (nested != nullptr) {
      return ReadProcessor(*nested, absl::StrCat(kFile, ": image_processor"), config);
    }
  }
  constexpr char kFile[] = "preprocessor_config.json";
  if (!texts.preprocessor) {
    config->warnings.push_back(absl::StrCat(kFile, " is missing; class defaults are used"));
    return ReadProcessor(json::object(), kFile, config);
  }
  CHORD_ASSIGN_OR_RETURN(const json whole, Parse(kFile, *texts.preprocessor));
  return ReadProcessor(whole, kFile, config);
}

absl::Status ReadGeneration(const ConfigTexts& texts, const json& text, const json& top,
                            ModelConfig* config) {
  std::vector<int> eos;
  GenerationConfig& generation = config->generation;
  if (texts.generation) {
    constexpr char kFile[] = "generation_config.json";
    CHORD_ASSIGN_OR_RETURN(const json whole, Parse(kFile, *texts.generation));
    Fields fields(whole, absl::StrCat(kFile, ": "));
    eos = fields.Ids("eos_token_id");
    generation.repetition_penalty =
        static_cast<float>(fields.PositiveOr("repetition_penalty", 1.0));
    CHORD_RETURN_IF_ERROR(fields.status());
  }
  for (const json* object : {&text, &top}) {
    if (!eos.empty()) break;
    Fields fields(*object, "config.json: ");
    eos = fields.Ids("eos_token_id");
    CHORD_RETURN_IF_ERROR(fields.status());
  }
  if (eos.empty()) eos = {kReferenceEos};
  for (const int id : eos) {
    const bool known =
        std::count(generation.eos_token_ids.begin(), generation.eos_token_ids.end(), id) > 0;
    if (id < config->text.vocab_size && !known) generation.eos_token_ids.push_back(id);
  }
  if (generation.eos_token_ids.empty()) {
    config->warnings.push_back(
        "eos_token_id names no id of the vocabulary: answers end at their length limit only");
  }
  return absl::OkStatus();
}

// Other methods and other packings of these two are refused by their names.
absl::StatusOr<Quantization> ReadQuantization(const json& object) {
  Fields fields(object, "config.json: quantization_config.");
  const auto require = [&](const char* key, const std::string& value,
                           std::initializer_list<absl::string_view> known) {
    if (std::count(known.begin(), known.end(), value) == 0) {
      fields.Refuse(key, absl::StrCat("\"", value, "\" is not implemented"));
    }
  };
  Quantization out;
  const std::string method = fields.TextOr("quant_method", "");
  if (method != "awq" && method != "gptq") {
    fields.Refuse("quant_method",
                  absl::StrCat("\"", method, "\" is not implemented, only awq and gptq. Use the ",
                               "BF16, F16 or F32 weights."));
  } else if (method == "awq") {
    out.method = Quantization::Method::kAwq;
    require("version", absl::AsciiStrToLower(fields.TextOr("version", "gemm")), {"gemm"});
    out.bits = static_cast<int>(fields.IntOr("bits", 4, 4, 4));
    if (!fields.BoolOr("zero_point", true)) {
      fields.Refuse("zero_point", "false is not implemented");
    }
  } else {
    out.method = Quantization::Method::kGptq;
    const std::string format = fields.TextOr("checkpoint_format", "gptq");
    require("checkpoint_format", format, {"gptq", "gptq_v2"});
    out.zeros_less_one = format == "gptq";
    out.bits = static_cast<int>(fields.IntOr("bits", 4, 8, 4));
    if (out.bits != 4 && out.bits != 8) fields.Refuse("bits", "must be 4 or 8");
  }
  const json* group = fields.Find("group_size");
  const bool whole = group != nullptr && group->is_number_integer() && *group == -1;
  out.group_size = whole ? -1 : fields.IntOr("group_size", 4, kMaxWidth, 128);
  if (out.group_size > 0 && out.group_size % 4 != 0) {
    fields.Refuse("group_size", "must be a multiple of 4, or -1");
  }
  CHORD_RETURN_IF_ERROR(fields.status());
  return out;
}

}  // namespace

std::string Quantization::ToString() const {
  return absl::StrCat(method == Method::kAwq ? "AWQ" : "GPTQ", ", ", bits, " bits, ",
                      group_size > 0 ? absl::StrCat("groups of ", group_size) : "whole rows");
}

absl::StatusOr<ModelConfig> ParseModelConfig(const ConfigTexts& texts) {
  constexpr char kFile[] = "config.json";
  CHORD_ASSIGN_OR_RETURN(const json top, Parse(kFile, texts.config));
  Fields fields(top, absl::StrCat(kFile, ": "));
  const std::string type = fields.TextOr("model_type", "");
  if (type != "qwen2_5_vl") {
    fields.Refuse("model_type", absl::StrCat(type.empty() ? "is missing" : "\"" + type + "\"",
                                             "; this program runs qwen2_5_vl"));
  }
  const json* nested = fields.Object("text_config");
  const json& text = nested == nullptr ? top : *nested;
  const json* vision = fields.Object("vision_config");
  if (vision == nullptr) fields.Refuse("vision_config", "is missing");
  ModelConfig config;
  for (const json* object : {&top, &text}) {
    Fields holder(*object, absl::StrCat(kFile, ": "));
    if (const json* quantized = holder.Object("quantization_config"); quantized != nullptr) {
      CHORD_ASSIGN_OR_RETURN(config.quantization, ReadQuantization(*quantized));
    }
    CHORD_RETURN_IF_ERROR(holder.status());
  }
  CHORD_RETURN_IF_ERROR(fields.status());

  CHORD_ASSIGN_OR_RETURN(config.text, ReadText(text, nested != nullptr));
  CHORD_ASSIGN_OR_RETURN(config.vision, ReadVision(*vision, &config.warnings));
  Fields text_fields(text, "config.json: ");
  const bool tied_outside = fields.BoolOr("tie_word_embeddings", false);
  config.text.tie_word_embeddings =
      text_fields.BoolOr("tie_word_embeddings", false) || tied_outside;
  for (const char* key : {"torch_dtype", "dtype"}) {
    config.declared_dtype = fields.TextOr(key, config.declared_dtype);
  }
  for (const char* key : {"torch_dtype", "dtype"}) {
    config.declared_dtype = text_fields.TextOr(key, config.declared_dtype);
  }
  config.declared_dtype = std::string(absl::StripPrefix(config.declared_dtype, "torch."));
  config.image_token_id =
      static_cast<int32_t>(fields.IntOr("image_token_id", 0, kMaxId, config.image_token_id));
  config.vision_start_token_id = static_cast<int32_t>(
      fields.IntOr("vision_start_token_id", 0, kMaxId, config.vision_start_token_id));
  config.vision_end_token_id = static_cast<int32_t>(
      fields.IntOr("vision_end_token_id", 0, kMaxId, config.vision_end_token_id));
  if (config.image_token_id >= config.text.vocab_size) {
    fields.Refuse("image_token_id", absl::StrCat(config.image_token_id, " is outside vocab_size ",
                                                 config.text.vocab_size));
  }
  if (config.vision.out_hidden_size != config.text.hidden_size) {
    fields.Refuse("vision_config.out_hidden_size",
                  absl::StrCat(config.vision.out_hidden_size,
                               " differs from the text's hidden_size ", config.text.hidden_size));
  }
  CHORD_RETURN_IF_ERROR(text_fields.status());
  CHORD_RETURN_IF_ERROR(fields.status());
  CHORD_RETURN_IF_ERROR(ReadProcessors(texts, &config));
  CHORD_RETURN_IF_ERROR(ReadGeneration(texts, text, top, &config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path) {
  CHORD_ASSIGN_OR_RETURN(const std::string dir, ResolveModelFolder(path));
  const auto read = [&](const char* name) {
    return ReadOptionalFile(dir, name, limits::kMaxConfigBytes);
  };
  ConfigTexts texts;
  CHORD_ASSIGN_OR_RETURN(auto config, read("config.json"));
  if (!config) {
    return errors::CheckpointInvalid("config.json is missing; is this a model folder?");
  }
  texts.config = *std::move(config);
  CHORD_ASSIGN_OR_RETURN(texts.generation, read("generation_config.json"));
  CHORD_ASSIGN_OR_RETURN(texts.preprocessor, read("preprocessor_config.json"));
  CHORD_ASSIGN_OR_RETURN(texts.processor, read("processor_config.json"));
  return ParseModelConfig(texts);
}

}  // namespace chord::model
