// Every prompt of a list about every image of a folder: for exports, and as JSON lines.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chord/v1/grounding.pb.h"
#include "services/cli/export/export_formats.h"
#include "services/cli/export/prompt_list.h"

namespace chord::cli {

struct PromptRun {
  std::string server;                    // HOST:PORT or unix:PATH of gRPC
  std::vector<std::string> images = {};  // paths; their file names become the names in the data set
  std::vector<ListedPrompt> prompts = {};
  std::optional<ExportFormat> format = std::nullopt;
  std::string out = "";  // a file; of YOLO a folder, which is made
  // Every answer on a line of stdout: {"file", "prompt" unless it has labels, and the answer's
  // members or "error"}.
  bool json = false;
  int max_new_tokens = 0;  // 0: the server's default
  v1::Grammar grammar = v1::GRAMMAR_AUTO;
  absl::Duration timeout = absl::Seconds(60);  // of each prompt and of each upload
  int parallel = 4;                            // images at once
};

// An image is uploaded once, its prompts follow by its handle, then it is deleted from the server.
// What is refused with a time to wait is sent again. Images and prompts are in order in the output,
// whichever is answered first. The exit code of commands.h: kExitFailed when a prompt has no answer
// (the data set then holds the answers there are), kExitTruncated when one was cut. CONFIG_INVALID
// and FILE_NOT_WRITTEN before any work.
absl::StatusOr<int> RunPrompts(const PromptRun& run);

}  // namespace chord::cli
