// The program behind `chord inspect`. Apart from the `chord` command because it links libtorch.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/weight_files.h"
#include "services/cli/inspect/inspect.h"

namespace chord::cli {
namespace {

constexpr char kUsage[] =
    R"(usage: chord inspect --model DIR [--image FILE]... --prompt TEXT
                     --stage pixels|embeddings|logits|tokens --out FILE
                     [--dtype fp32|bf16] [--max-new-tokens N] [--device cpu|cuda[:N]]
                     [--threads N]

Runs the model in this process and writes one safetensors file with what it computed:
  pixels      pixel_values F32 [patches, 1176], image_grid_thw I64 [images, 3]
  embeddings  image_embeds F32 [image tokens, hidden]
  logits      input_ids I64 [S], position_ids I64 [3, S], logits F32 [S, vocabulary]
  tokens      input_ids I64 [S], tokens I64 [at most N]: greedy, by generation_config.json's
              repetition_penalty and eos_token_id

  --dtype     what the model computes in (default fp32)
  --device    default cpu
  --threads   CPU threads (default 0: all cores)
)";

// nullopt: help is wanted.
absl::StatusOr<std::optional<InspectOptions>> Parse(int argc, char** argv) {
  InspectOptions options;
  bool stage = false, prompt = false;
  for (int i = 1; i < argc; ++i) {
    std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") return std::nullopt;
    std::string value;
    if (const size_t equals = flag.find('='); equals != std::string::npos) {
      value = flag.substr(equals + 1);
      flag.resize(equals);
    } else if (i + 1 < argc) {
      value = argv[++i];
    } else {
      return absl::InvalidArgumentError(absl::StrCat(flag, " needs a value; see --help"));
    }
    const auto number = [&](int low, int* out) -> absl::Status {
      if (!absl::SimpleAtoi(value, out) || *out < low || *out > 1'000'000) {
        return absl::InvalidArgumentError(
            absl::StrCat(flag, " must be an integer from ", low, " to 1000000"));
      }
      return absl::OkStatus();
    };
    if (flag == "--model") {
      options.model = value;
    } else if (flag == "--image") {
      options.images.push_back(value);
    } else if (flag == "--prompt") {
      options.prompt = value;
      prompt = true;
    } else if (flag == "--out") {
      options.out = value;
    } else if (flag == "--dtype") {
      options.dtype = value;
    } else if (flag == "--device") {
      options.device = value;
    } else if (flag == "--max-new-tokens") {
      CHORD_RETURN_IF_ERROR(number(1, &options.max_new_tokens));
    } else if (flag == "--threads") {
      CHORD_RETURN_IF_ERROR(number(0, &options.threads));
    } else if (flag == "--stage") {
      stage = true;
      if (value == "pixels") {
        options.stage = InspectOptions::Stage::kPixels;
      } else if (value == "embeddings") {
        options.stage = InspectOptions::Stage::kEmbeddings;
      } else if (value == "logits") {
        options.stage = InspectOptions::Stage::kLogits;
      } else if (value == "tokens") {
        options.stage = InspectOptions::Stage::kTokens;
      } else {
        return absl::InvalidArgumentError("--stage must be pixels, embeddings, logits or tokens");
      }
    } else {
      return absl::InvalidArgumentError(absl::StrCat("unknown flag ", flag, "; see --help"));
    }
  }
  if (options.model.empty()) return absl::InvalidArgumentError("--model is missing; see --help");
  if (!stage) return absl::InvalidArgumentError("--stage is missing; see --help");
  if (options.out.empty()) return absl::InvalidArgumentError("--out is missing; see --help");
  const bool asks = options.stage == InspectOptions::Stage::kLogits ||
                    options.stage == InspectOptions::Stage::kTokens;
  if (asks && !prompt) return absl::InvalidArgumentError("--prompt is missing; see --help");
  return options;
}

// What a run reads must survive it: a failed one removes the result of an earlier one.
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

absl::Status Main(int argc, char** argv) {
  CHORD_ASSIGN_OR_RETURN(const std::optional<InspectOptions> options, Parse(argc, argv));
  if (!options) {
    std::fputs(kUsage, stdout);
    return absl::OkStatus();
  }
  CHORD_RETURN_IF_ERROR(CheckOutIsNoInput(*options));
  absl::Status status;
  try {
    status = Inspect(*options);
  } catch (const std::bad_alloc&) {  // logits of a long prompt, above all
    status = absl::ResourceExhaustedError("the memory does not suffice");
  } catch (const std::exception& error) {
    status = absl::InternalError(error.what());
  }
  // An older result must not pass for this one.
  std::error_code ignored;
  if (!status.ok() && std::filesystem::is_regular_file(options->out, ignored)) {
    std::filesystem::remove(options->out, ignored);
  }
  return status;
}

}  // namespace
}  // namespace chord::cli

int main(int argc, char** argv) {
  const absl::Status status = chord::cli::Main(argc, argv);
  if (status.ok()) return 0;
  std::string line(status.message());
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  std::fprintf(stderr, "chord inspect: %s\n", line.c_str());
  return 1;
}
