// The program behind `chord inspect`. Apart from the `chord` command because it links libtorch.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/weight_files.h"
#include "services/cli/command_line.h"
#include "services/cli/inspect/inspect.h"

namespace chord::cli {
namespace {

constexpr char kSummary[] =
    "Runs the model in this process and writes one safetensors file with what it computed:\n"
    "  pixels      pixel_values F32 [patches, 1176], image_grid_thw I64 [images, 3]\n"
    "  embeddings  image_embeds F32 [image tokens, hidden]\n"
    "  logits      input_ids I64 [S], position_ids I64 [3, S], logits F32 [S, vocabulary]\n"
    "  tokens      input_ids I64 [S], tokens I64 [at most N]: greedy, by generation_config.json's\n"
    "              repetition_penalty and eos_token_id\n"
    "  weights     F32 [out, in] of each linear layer of the decoder, as packing (--dtype) or a\n"
    "              quantised checkpoint (AWQ, GPTQ) makes them";

InspectOptions::Stage StageOf(const std::string& name) {
  if (name == "pixels") return InspectOptions::Stage::kPixels;
  if (name == "embeddings") return InspectOptions::Stage::kEmbeddings;
  if (name == "weights") return InspectOptions::Stage::kWeights;
  if (name == "logits") return InspectOptions::Stage::kLogits;
  return InspectOptions::Stage::kTokens;
}

void Declare(CommandLine& line, InspectOptions& options, std::string& stage) {
  line.AllowOverrides();
  line.Text("model", &options.model, "DIR", "Hugging Face folder of the model");
  line.Repeated("image", &options.images, "FILE", "An image of the prompt; repeatable");
  line.Text("prompt", &options.prompt, "TEXT", "For the stages logits and tokens");
  line.Choice("stage", &stage, {"pixels", "embeddings", "logits", "tokens", "weights"},
              "What to write");
  line.Text("out", &options.out, "FILE", "The safetensors file");
  line.Text("dtype", &options.dtype, "T",
            "fp32, bf16 or fp16: what the model computes in; int8 or int4 (int4-32, int4-64, "
            "int4-128): its language part packed, on a CPU (default fp32)");
  line.Text(
      "vision-dtype", &options.vision_dtype, "T",
      "The same of the vision tower (default: as --dtype, but fp32 where that packs weights)");
  line.Integer("max-new-tokens", &options.max_new_tokens, 1, 1'000'000, "Longest answer");
  line.Text("device", &options.device, "D", "cpu or cuda[:N] (default cpu)");
  line.Integer("threads", &options.threads, 0, 1'000'000, "CPU threads (default 0: all cores)");
}

absl::Status CheckComplete(const CommandLine& line, const InspectOptions& options) {
  for (const char* option : {"model", "stage", "out"}) {
    if (!line.Has(option)) {
      return absl::InvalidArgumentError(absl::StrCat("--", option, " is missing; see --help"));
    }
  }
  const bool needs_prompt = options.stage == InspectOptions::Stage::kLogits ||
                            options.stage == InspectOptions::Stage::kTokens;
  if (needs_prompt && !line.Has("prompt")) {
    return absl::InvalidArgumentError("--prompt is missing; see --help");
  }
  return absl::OkStatus();
}

// A failed run removes the result of an earlier one, so the result must not be an input.
absl::Status CheckOutIsNoInput(const InspectOptions& options) {
  std::error_code ignored;
  for (const std::string& image : options.images) {
    if (std::filesystem::equivalent(image, options.out, ignored)) {
      return absl::InvalidArgumentError("--out is one of the images");
    }
  }
  std::vector<std::string> names = {"config.json",           "generation_config.json",
                                    "chat_template.json",    "chat_template.jinja",
                                    "tokenizer.json",        "preprocessor_config.json",
                                    "tokenizer_config.json", "processor_config.json",
                                    "model.safetensors",     "model.safetensors.index.json"};
  if (const auto weights = model::FindWeightFiles(options.model); weights.ok()) {
    names.insert(names.end(), weights->names.begin(), weights->names.end());
  }
  for (const std::string& name : names) {
    if (std::filesystem::equivalent(options.model + "/" + name, options.out, ignored)) {
      return absl::InvalidArgumentError("--out is a file of the model");
    }
  }
  return absl::OkStatus();
}

// An exception of the engine or of the allocator becomes a status here.
absl::Status RunInspect(const InspectOptions& options) {
  absl::Status status;
  try {
    status = Inspect(options);
  } catch (const std::bad_alloc&) {  // logits of a long prompt, above all
    status = absl::ResourceExhaustedError("there is not enough memory");
  } catch (const std::exception& error) {
    status = absl::InternalError(error.what());
  }
  // An older result must not pass for this one.
  std::error_code ignored;
  if (!status.ok() && std::filesystem::is_regular_file(options.out, ignored)) {
    std::filesystem::remove(options.out, ignored);
  }
  return status;
}

int Main(const std::vector<std::string>& args) {
  InspectOptions options;
  std::string stage;
  CommandLine line("chord inspect", kSummary);
  Declare(line, options, stage);
  if (const std::optional<int> code = line.Parse(args)) {
    return *code == kExitOk ? kExitOk : kExitFailed;
  }
  options.stage = StageOf(stage);
  absl::Status status = CheckComplete(line, options);
  if (status.ok()) status = CheckOutIsNoInput(options);
  if (status.ok()) status = RunInspect(options);
  if (status.ok()) return kExitOk;
  std::string message(status.message());
  std::replace_if(
      message.begin(), message.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return line.Fail(message, kExitFailed);
}

}  // namespace
}  // namespace chord::cli

int main(int argc, char** argv) {
  return chord::cli::Main(std::vector<std::string>(argv + 1, argv + argc));
}
