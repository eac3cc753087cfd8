#include "common/grounding/answer_parser.h"

#include "common/grounding/answer_scan.h"

namespace chord::grounding {

ParsedAnswer ParseAnswer(absl::string_view text) {
  const internal::Scan scan = internal::ScanAnswer(text);
  const std::vector<bool> first = internal::FirstOccurrences(scan);
  ParsedAnswer out;
  for (size_t i = 0; i < scan.found.size(); ++i) {
    if (first[i]) out.objects.push_back(scan.found[i].object);
  }
  out.explicit_empty = scan.empty_list && scan.found.empty();
  out.truncated = scan.truncated;
  return out;
}

}  // namespace chord::grounding
