// The results of `chord eval` as JSON, as Markdown tables and as a reliability diagram.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "services/cli/eval/eval_metrics.h"

namespace chord::cli {

struct EvalReport {
  Summary all;
  std::map<std::string, Summary> groups;  // by kind of prompt
  int64_t failed = 0;
  bool calibrated = false;  // every answer's confidences came from a fitted map
  std::string model;
};

std::string EvalJson(const EvalReport& report);
// Markdown, so that it reads well on a terminal and can be pasted into documents.
std::string EvalText(const EvalReport& report);
// PNG of the reliability curve.
absl::Status WriteReliabilityPlot(absl::Span<const Claim> claims, const std::string& path);

}  // namespace chord::cli
