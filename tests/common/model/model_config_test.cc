#include "common/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/errors.h"
#include "tests/common/model/model_folder.h"
#include "tests/support/has_reason.h"

namespace chord::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// kSmallConfig with one piece of text replaced; the piece must be there.
std::string With(absl::string_view from, absl::string_view to,
                 absl::string_view config = kSmallConfig) {
  EXPECT_THAT(std::string(config), HasSubstr(std::string(from)));
  return absl::StrReplaceAll(config, {{from, to}});
}
// kSmallConfig without one of its "key": value pairs.
std::string Without(absl::string_view pair) { return With(absl::StrCat(pair, ","), ""); }

ModelConfig MustParse(const ConfigTexts& texts) {
  auto config = ParseModelConfig(texts);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig{});
}
ModelConfig MustParse(const std::string& config) {
  return MustParse(ConfigTexts{.config = config});
}

void ExpectRefused(const ConfigTexts& texts, absl::string_view why) {
  const auto config = ParseModelConfig(texts);
  ASSERT_FALSE(config.ok()) << "accepted; expected: " << why;
  EXPECT_THAT(config.status(), HasReason(Reason::kCheckpointInvalid));
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(std::string(why)));
}
void ExpectRefused(const std::string& config, absl::string_view why) {
  ExpectRefused(ConfigTexts{.config = config}, why);
}

TEST(ModelConfigTest, ReadsTheFlatLayout) {
  const ModelConfig config = MustParse(std::string(kSmallConfig));
  EXPECT_EQ(config.text.hidden_size, 64);
  EXPECT_EQ(config.text.num_hidden_layers, 2);
  EXPECT_EQ(config.text.num_key_value_heads, 2);
  EXPECT_EQ(config.text.head_dim, 16);
  EXPECT_EQ(config.text.intermediate_size, 96);
  EXPECT_EQ(config.text.vocab_size, 300);
  EXPECT_FLOAT_EQ(config.text.rms_norm_eps, 1e-6f);
  EXPECT_EQ(config.text.rope_theta, 10000);
  EXPECT_THAT(config.text.mrope_section, ElementsAre(2, 3, 3));
  EXPECT_EQ(config.text.max_position_embeddings, 512);
  EXPECT_FALSE(config.text.tie_word_embeddings);
  EXPECT_EQ(config.vision.depth, 3);
  EXPECT_EQ(config.vision.head_dim(), 16);
  EXPECT_EQ(config.vision.window_cells(), 4);
  EXPECT_THAT(config.vision.fullatt_block_indexes, ElementsAre(1));
  EXPECT_EQ(config.declared_dtype, "bfloat16");
  EXPECT_THAT(config.generation.eos_token_ids, ElementsAre(7));
  EXPECT_EQ(config.generation.repetition_penalty, 1.0f);
  EXPECT_EQ(config.image_token_id, 299);
}

constexpr char kNested[] = R"({
  "model_type": "qwen2_5_vl", "dtype": "float32", "image_token_id": 299,
  "tie_word_embeddings": false, "hidden_size": 9999, "rope_theta": 5.0, "eos_token_id": 3,
  "text_config": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "eos_token_id": [7, 8],
    "rope_parameters": {"rope_theta": 20000.0, "rope_type": "default", "type": "mrope",
                        "mrope_section": [4, 2, 2]},
    "dtype": "bfloat16", "tie_word_embeddings": true, "layer_types": ["full_attention"]},
  "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64,
    "patch_size": [14, 14], "temporal_patch_size": [2],
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"}}
})";

TEST(ModelConfigTest, ReadsTheNestedLayoutAndIgnoresTextFieldsAroundIt) {
  const ModelConfig config = MustParse(std::string(kNested));
  EXPECT_EQ(config.text.hidden_size, 64);
  EXPECT_EQ(config.text.rope_theta, 20000);
  EXPECT_THAT(config.text.mrope_section, ElementsAre(4, 2, 2));
  EXPECT_TRUE(config.text.tie_word_embeddings);
  EXPECT_EQ(config.declared_dtype, "bfloat16");
  EXPECT_FLOAT_EQ(config.text.rms_norm_eps, 1e-5f);
  EXPECT_EQ(config.text.max_position_embeddings, 32768);
  EXPECT_EQ(config.vision.patch_size, 14);
  EXPECT_EQ(config.vision.intermediate_size, 3420);
  EXPECT_THAT(config.generation.eos_token_ids, ElementsAre(7, 8));
  // The default list names blocks that two do not have.
  EXPECT_THAT(config.vision.fullatt_block_indexes, IsEmpty());
}

TEST(ModelConfigTest, KnowsThreeSpellingsOfRopeAndTheirPrecedence) {
  const auto theta_of = [](absl::string_view rope) {
    return MustParse(
               With(
                   R"("rope_theta": 10000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]})",
                   rope))
        .text;
  };
  const TextConfig middle = theta_of(
      R"("rope_theta": 5, "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [4,2,2]})");
  EXPECT_EQ(middle.rope_theta, 5);
  EXPECT_THAT(middle.mrope_section, ElementsAre(4, 2, 2));
  const TextConfig newest = theta_of(
      R"("rope_theta": 5, "rope_parameters": {"rope_theta": 6.5, "rope_type": "mrope", "mrope_section": [4,2,2]})");
  EXPECT_EQ(newest.rope_theta, 6.5);
  // As the reference class: a filled rope_scaling wins over rope_parameters.
  const TextConfig both = theta_of(
      R"("rope_scaling": {"mrope_section": [4,2,2]}, "rope_parameters": {"rope_theta": 6.5, "mrope_section": [2,4,2]})");
  EXPECT_EQ(both.rope_theta, 1e6);
  EXPECT_THAT(both.mrope_section, ElementsAre(4, 2, 2));
  const TextConfig empty = theta_of(
      R"("rope_scaling": null, "rope_parameters": {"rope_theta": 6.5, "mrope_section": [2,4,2]})");
  EXPECT_EQ(empty.rope_theta, 6.5);
}

TEST(ModelConfigTest, RefusesRopesItDoesNotKnow) {
  const auto rope = [](absl::string_view text) {
    return With(R"({"type": "mrope", "mrope_section": [2, 3, 3]})", text);
  };
  ExpectRefused(rope(R"({"type": "yarn", "factor": 4, "mrope_section": [2,3,3]})"),
                "\"yarn\" is not");
  ExpectRefused(rope(R"({"rope_type": "linear", "type": "mrope", "mrope_section": [2,3,3]})"),
                "\"linear\"");
  ExpectRefused(rope(R"({"type": "mrope"})"), "mrope_section");  // [16,24,24] needs a head of 128
  ExpectRefused(rope(R"({"type": "mrope", "mrope_section": [2,3]})"), "mrope_section");
  ExpectRefused(rope(R"({"type": "mrope", "mrope_section": [2,3,4]})"), "mrope_section");
  ExpectRefused(rope(R"({"type": "mrope", "mrope_section": [9,-1,0]})"), "mrope_section");
  ExpectRefused(rope(R"([])"), "rope_scaling");
  ExpectRefused(With("\"rope_theta\": 10000.0", "\"rope_theta\": -1"), "rope_theta");
  ExpectRefused(With("\"rope_theta\": 10000.0", "\"rope_theta\": \"1\""), "rope_theta");
}

TEST(ModelConfigTest, TakesTheDefaultsOfTheReferenceClass) {
  const ModelConfig config =
      MustParse(With(R"("depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48,)",
                     R"("hidden_size": 64,)", Without("\"rms_norm_eps\": 1e-6")));
  EXPECT_EQ(config.vision.depth, 32);
  EXPECT_EQ(config.vision.num_heads, 16);
  EXPECT_EQ(config.vision.intermediate_size, 3420);
  EXPECT_FLOAT_EQ(config.text.rms_norm_eps, 1e-5f);
  // One key/value head per head when the key is null, 8 when it is absent and can be.
  EXPECT_EQ(MustParse(With("\"num_key_value_heads\": 2", "\"num_key_value_heads\": null"))
                .text.num_key_value_heads,
            4);
  EXPECT_EQ(MustParse(Without("\"num_key_value_heads\": 2")).text.num_key_value_heads, 4);
  const std::string sixteen =
      With(R"("num_attention_heads": 4, "num_key_value_heads": 2)", R"("num_attention_heads": 16)");
  EXPECT_EQ(MustParse(With("[2, 3, 3]", "[2, 0, 0]", sixteen)).text.num_key_value_heads, 8);
}

TEST(ModelConfigTest, NamesTheFieldThatIsMissing) {
  for (const char* pair :
       {"\"hidden_size\": 64", "\"intermediate_size\": 96", "\"num_hidden_layers\": 2",
        "\"num_attention_heads\": 4", "\"vocab_size\": 300", "\"out_hidden_size\": 64",
        "\"hidden_size\": 32"}) {
    const std::string key(absl::string_view(pair).substr(1, absl::string_view(pair).find(':') - 2));
    ExpectRefused(Without(pair), absl::StrCat(key, ": is missing"));
  }
  ExpectRefused(Without("\"model_type\": \"qwen2_5_vl\""), "model_type: is missing");
  ExpectRefused(With("\"vision_config\"", "\"vision_config_\""), "vision_config: is missing");
}

TEST(ModelConfigTest, RefusesValuesOutOfRangeOrOfTheWrongType) {
  for (const char* value : {"0", "-1", "4294967296", "9223372036854775808", "18446744073709551615",
                            "64.0", "\"64\"", "true", "[]", "{}", "1e999"}) {
    EXPECT_FALSE(ParseModelConfig({.config = With("\"hidden_size\": 64",
                                                  absl::StrCat("\"hidden_size\": ", value))})
                     .ok())
        << value;
    EXPECT_FALSE(
        ParseModelConfig({.config = With("\"depth\": 3", absl::StrCat("\"depth\": ", value))}).ok())
        << value;
  }
  for (const char* value : {"0", "-1e-6", "1e-60", "1e60", "NaN", "Infinity", "\"1e-6\"", "true"}) {
    EXPECT_FALSE(ParseModelConfig({.config = With("\"rms_norm_eps\": 1e-6",
                                                  absl::StrCat("\"rms_norm_eps\": ", value))})
                     .ok())
        << value;
  }
}

TEST(ModelConfigTest, RefusesSizesThatContradictEachOther) {
  ExpectRefused(With("\"num_attention_heads\": 4", "\"num_attention_heads\": 5"),
                "does not divide");
  ExpectRefused(With("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
                "num_key_value_heads");
  ExpectRefused(With("\"out_hidden_size\": 64", "\"out_hidden_size\": 65"), "out_hidden_size");
  ExpectRefused(With("\"num_heads\": 2", "\"num_heads\": 3"), "does not divide");
  ExpectRefused(With("\"num_heads\": 2", "\"num_heads\": 16"), "multiple of 4");
  ExpectRefused(With("\"window_size\": 112", "\"window_size\": 27"), "window_size");
  ExpectRefused(With("\"fullatt_block_indexes\": [1]", "\"fullatt_block_indexes\": [-1]"),
                "fullatt");
  ExpectRefused(With("\"patch_size\": 14", "\"patch_size\": [14, 16]"), "equal");
  ExpectRefused(With("\"patch_size\": 14", "\"patch_size\": []"), "equal");
  ExpectRefused(With("\"image_token_id\": 299", "\"image_token_id\": 300"), "outside vocab_size");
  ExpectRefused(With("\"num_heads\": 2", "\"num_heads\": 2, \"head_dim\": 32"), "head_dim");
}

TEST(ModelConfigTest, TakesASwitchedOffSlidingWindow) {
  const std::string slides =
      R"("vocab_size": 300, "use_sliding_window": true, "max_window_layers": 1)";
  ExpectRefused(With("\"vocab_size\": 300", slides), "sliding window");
  // null is no window for the reference class, absent is one of 4096.
  EXPECT_EQ(
      MustParse(With("\"vocab_size\": 300", slides + ", \"sliding_window\": null")).text.vocab_size,
      300);
}

TEST(ModelConfigTest, ReadsAHeadSizeWhereTheReferenceClassDoes) {
  // The flat layout has no such field, whatever stands there.
  const std::string flat = With("\"vocab_size\": 300", "\"vocab_size\": 300, \"head_dim\": 32");
  EXPECT_EQ(MustParse(flat).text.head_dim, 16);
  const auto nested = [](absl::string_view head_dim) {
    return With("\"vocab_size\": 300",
                absl::StrCat("\"vocab_size\": 300, \"head_dim\": ", head_dim), kNested);
  };
  ExpectRefused(nested("32"), "head_dim");
  EXPECT_EQ(MustParse(nested("16")).text.head_dim, 16);
  EXPECT_EQ(MustParse(nested("null")).text.head_dim, 16);
}

TEST(ModelConfigTest, RefusesGeometriesThatEnlargeAPixelBeyondReason) {
  const std::string wide = With("\"window_size\": 112", "\"window_size\": 100000");
  const auto with = [&](int patch, int merge, int temporal) {
    return With("\"patch_size\": 14, \"spatial_merge_size\": 2,\n    \"temporal_patch_size\": 2",
                absl::StrCat("\"patch_size\": ", patch, ", \"spatial_merge_size\": ", merge,
                             ", \"temporal_patch_size\": ", temporal),
                wide);
  };
  EXPECT_EQ(MustParse(with(64, 16, 2)).geometry.factor(), 1024);
  ExpectRefused(with(4096, 2, 2), "beyond reason");
  ExpectRefused(with(1024, 64, 1), "beyond reason");
  ExpectRefused(with(256, 16, 64), "beyond reason");
}

TEST(ModelConfigTest, RefusesVariantsThatAreNotImplemented) {
  ExpectRefused(With("\"qwen2_5_vl\"", "\"qwen3_vl\""),
                "\"qwen3_vl\"; this program runs qwen2_5_vl");
  ExpectRefused(With("\"silu\"", "\"gelu\""), "\"gelu\" is not implemented");
  ExpectRefused(With("\"in_chans\": 3", "\"hidden_act\": \"relu\""), "vision_config.hidden_act");
  ExpectRefused(With("\"in_chans\": 3", "\"in_channels\": 4"), "in_channels");
  ExpectRefused(With("\"in_chans\": 3", "\"rope_parameters\": {\"rope_theta\": 500.0}"),
                "theta 10000");
  const auto plus = [](absl::string_view pair) {
    return With("\"vocab_size\": 300", absl::StrCat("\"vocab_size\": 300, ", pair));
  };
  ExpectRefused(plus(R"("use_sliding_window": true, "max_window_layers": 1)"), "sliding");
  ExpectRefused(plus(R"("layer_types": ["full_attention", "sliding_attention"])"), "sliding");
  // On in name only: no layer is beyond max_window_layers.
  MustParse(plus(R"("use_sliding_window": true, "max_window_layers": 2)"));
  MustParse(plus(R"("use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 0)"));
}

TEST(ModelConfigTest, ReadsHowWeightsAreStoredQuantised) {
  const auto with = [](absl::string_view fields) {
    return With("\"vocab_size\": 300",
                absl::StrCat("\"vocab_size\": 300, \"quantization_config\": ", fields));
  };
  using Method = Quantization::Method;
  EXPECT_FALSE(MustParse(with("null")).quantization.has_value());
  const auto awq = *MustParse(with(R"({"quant_method": "awq", "bits": 4, "group_size": 64,
      "version": "GEMM", "zero_point": true, "modules_to_not_convert": ["visual"]})"))
                        .quantization;
  EXPECT_EQ(awq.method, Method::kAwq);
  EXPECT_EQ(awq.group_size, 64);
  EXPECT_FALSE(awq.zeros_less_one);
  const auto gptq = *MustParse(with(R"({"quant_method": "gptq", "bits": 8, "group_size": -1,
      "desc_act": true})"))
                         .quantization;
  EXPECT_EQ(gptq.method, Method::kGptq);
  EXPECT_EQ(gptq.bits, 8);
  EXPECT_EQ(gptq.group_size, -1);
  EXPECT_TRUE(gptq.zeros_less_one);
  EXPECT_FALSE(MustParse(with(R"({"quant_method": "gptq", "checkpoint_format": "gptq_v2"})"))
                   .quantization->zeros_less_one);
  const std::pair<absl::string_view, absl::string_view> kRefused[] = {
      {R"({})", "quant_method"},
      {R"([])", "must be an object"},
      {R"({"quant_method": "bitsandbytes"})", "\"bitsandbytes\" is not implemented"},
      {R"({"quant_method": "fp8"})", "\"fp8\" is not implemented"},
      {R"({"quant_method": "awq", "version": "gemv"})", "\"gemv\" is not implemented"},
      {R"({"quant_method": "awq", "bits": 8})", "bits"},
      {R"({"quant_method": "awq", "zero_point": false})", "zero_point"},
      {R"({"quant_method": "gptq", "bits": 3})", "bits"},
      {R"({"quant_method": "gptq", "bits": 6})", "must be 4 or 8"},
      {R"({"quant_method": "gptq", "checkpoint_format": "marlin"})", "\"marlin\""},
      {R"({"quant_method": "gptq", "group_size": 0})", "group_size"},
      {R"({"quant_method": "gptq", "group_size": 33})", "multiple of 4"},
      {R"({"quant_method": "gptq", "group_size": -2})", "group_size"}};
  for (const auto& [fields, why] : kRefused) ExpectRefused(with(fields), why);
}

TEST(ModelConfigTest, EndIdsComeFromTheGenerationConfigFirst) {
  const auto eos = [](std::optional<std::string> generation, const std::string& config) {
    return MustParse(ConfigTexts{.config = config, .generation = std::move(generation)})
        .generation.eos_token_ids;
  };
  const std::string small = kSmallConfig;
  EXPECT_THAT(eos(R"({"eos_token_id": [9, 5, 9]})", small), ElementsAre(9, 5));
  EXPECT_THAT(eos(R"({"eos_token_id": 9})", small), ElementsAre(9));
  EXPECT_THAT(eos(R"({"repetition_penalty": 1.05})", small), ElementsAre(7));
  EXPECT_THAT(eos(R"({"eos_token_id": null})", small), ElementsAre(7));
  EXPECT_THAT(eos(std::nullopt, small), ElementsAre(7));
  // The nested object, then what is around it.
  EXPECT_THAT(eos(std::nullopt, kNested), ElementsAre(7, 8));
  EXPECT_THAT(eos(std::nullopt, With("\"eos_token_id\": [7, 8],", "", kNested)), ElementsAre(3));
  // An id that no row of the vocabulary can produce never ends anything.
  EXPECT_THAT(eos(R"({"eos_token_id": [300, 2]})", small), ElementsAre(2));
  const ModelConfig none = MustParse(Without("\"eos_token_id\": 7"));
  EXPECT_THAT(none.generation.eos_token_ids, IsEmpty());
  EXPECT_THAT(none.warnings, testing::Contains(HasSubstr("length limit")));
  EXPECT_THAT(MustParse(With("\"vocab_size\": 300", "\"vocab_size\": 151936",
                             Without("\"eos_token_id\": 7")))
                  .generation.eos_token_ids,
              ElementsAre(151645));
  EXPECT_FLOAT_EQ(
      MustParse(ConfigTexts{.config = small, .generation = R"({"repetition_penalty": 1.05})"})
          .generation.repetition_penalty,
      1.05f);
  for (const char* bad :
       {R"({"eos_token_id": -1})", R"({"eos_token_id": "7"})", R"({"eos_token_id": [1.5]})",
        R"({"eos_token_id": 4294967303})", R"({"repetition_penalty": 0})",
        R"({"repetition_penalty": -1})", R"({"repetition_penalty": "1"})", "[]", "", "{"}) {
    ExpectRefused(ConfigTexts{.config = small, .generation = bad}, "generation_config.json");
  }
}

TEST(ModelConfigTest, PixelBoundsFollowTheReferencesPrecedence) {
  const auto bounds = [](std::optional<std::string> preprocessor,
                         std::optional<std::string> processor = std::nullopt) {
    const auto geometry = MustParse(ConfigTexts{.config = kSmallConfig,
                                                .preprocessor = std::move(preprocessor),
                                                .processor = std::move(processor)})
                              .geometry;
    return std::make_pair(geometry.min_pixels, geometry.max_pixels);
  };
  using Pair = std::pair<int64_t, int64_t>;
  EXPECT_EQ(bounds(std::nullopt), Pair(3136, 1003520));
  EXPECT_EQ(bounds("{}"), Pair(3136, 1003520));
  EXPECT_EQ(bounds(R"({"min_pixels": 784, "max_pixels": 12845056})"), Pair(784, 12845056));
  EXPECT_EQ(bounds(R"({"size": {"shortest_edge": 10, "longest_edge": 20}})"), Pair(10, 20));
  EXPECT_EQ(bounds(R"({"size": {"shortest_edge": 10, "longest_edge": 20}, "max_pixels": 30})"),
            Pair(10, 30));
  EXPECT_EQ(bounds(R"({"min_pixels": 5, "max_pixels": null})"), Pair(5, 1003520));
  EXPECT_EQ(bounds(R"({"size": {"min_pixels": 10, "max_pixels": 20}})"), Pair(10, 20));
  EXPECT_EQ(bounds(R"({"size": {"min_pixels": 10, "max_pixels": 20, "shortest_edge": 11,
                                "longest_edge": 21}})"),
            Pair(11, 21));
  // processor_config.json wins where it has the settings nested.
  EXPECT_EQ(bounds(R"({"max_pixels": 30000})", R"({"image_processor": {"max_pixels": 40000}})"),
            Pair(3136, 40000));
  EXPECT_EQ(bounds(R"({"max_pixels": 30000})", R"({"processor_class": "Qwen2_5_VLProcessor"})"),
            Pair(3136, 30000));
}

TEST(ModelConfigTest, ReadsMeanAndDeviationAndRefusesOtherPipelines) {
  const auto with = [](const std::string& preprocessor) {
    return ConfigTexts{.config = kSmallConfig, .preprocessor = preprocessor};
  };
  const ModelConfig config =
      MustParse(with(R"({"image_mean": [0.5, 0, 1], "image_std": 0.25, "patch_size": 14,
                         "merge_size": 2, "temporal_patch_size": 2, "resample": 3,
                         "rescale_factor": 0.00392156862745098, "do_resize": true})"));
  EXPECT_THAT(config.normalization.mean, ElementsAre(0.5f, 0.0f, 1.0f));
  EXPECT_THAT(config.normalization.std, ElementsAre(0.25f, 0.25f, 0.25f));
  EXPECT_EQ(config.geometry.factor(), 28);
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {R"({"image_std": [0.5, 0, 0.5]})", "image_std"},
           {R"({"image_std": [0.5, 0.5]})", "image_std"},
           {R"({"image_mean": ["0", 0, 0]})", "image_mean"},
           {R"({"image_mean": [1e300, 0, 0]})", "image_mean"},
           {R"({"patch_size": 16})", "differ from vision_config"},
           {R"({"merge_size": 1})", "differ from vision_config"},
           {R"({"do_resize": false})", "do_resize"},
           {R"({"do_rescale": false})", "do_rescale"},
           {R"({"do_normalize": false})", "do_normalize"},
           {R"({"rescale_factor": 1.0})", "rescale_factor"},
           {R"({"resample": 2})", "resample"},
           {R"({"min_pixels": 0})", "min_pixels"},
           {R"({"min_pixels": 100, "max_pixels": 50})", "more than max_pixels"},
           {R"({"min_pixels": 33554432, "max_pixels": 33554432})", "beyond reason"},
           {R"({"size": 224})", "size"},
           {R"({"size": {"shortest_edge": "x"}})", "size.shortest_edge"},
           {"nonsense", "preprocessor_config.json: not valid JSON"}}) {
    ExpectRefused(with(text), why);
  }
}

TEST(ModelConfigTest, ParsesStrictly) {
  ExpectRefused(std::string(), "config.json: not valid JSON");
  ExpectRefused(std::string("null"), "one JSON object");
  ExpectRefused(std::string("\xEF\xBB\xBF") + kSmallConfig, "not valid JSON");
  ExpectRefused(std::string(kSmallConfig) + std::string(1, '\0'), "not valid JSON");
  ExpectRefused(std::string(kSmallConfig) + "// comment", "not valid JSON");
  ExpectRefused(With("\"vocab_size\": 300", "\"vocab_size\": 300, \"vocab_size\": 300"),
                "\"vocab_size\" occurs twice");
  ExpectRefused(With("\"depth\": 3", "\"depth\": 3, \"d\\u0065pth\": 3"), "occurs twice");
  ExpectRefused("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}",
                "nested too deeply");
  ExpectRefused("{\"a\":[" + std::string(400'000, ',') + "]}", "more than 200000 values");
  ExpectRefused("{\"a\xff\":1}", "not valid JSON");
  ExpectRefused(With("\"silu\"", "\"\\ud800\""), "unpaired surrogate");
}

TEST(ModelConfigTest, LoadsAFolderAndRefusesAnIncompleteOne) {
  const TempFolder folder;
  const auto refused = [&](absl::string_view why) {
    const auto config = LoadModelConfig(folder.path());
    ASSERT_FALSE(config.ok());
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(std::string(why)));
  };
  refused("config.json is missing");
  std::filesystem::create_directory(folder.File("config.json"));
  refused("not a regular file");
  std::filesystem::remove(folder.File("config.json"));
  folder.Write("config.json", kSmallConfig);
  EXPECT_TRUE(LoadModelConfig(folder.path()).ok());
  folder.Write("generation_config.json", std::string(9 << 20, ' '));
  refused("the limit is");
  folder.Write("generation_config.json", "version https://git-lfs.github.com/spec/v1\n");
  refused("git-lfs");
  EXPECT_FALSE(LoadModelConfig(folder.File("none")).ok());
}

}  // namespace
}  // namespace chord::model
