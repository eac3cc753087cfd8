// What a model will probably call the things that a prompt asks for.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord::grammar {

// Immutable, thread-safe. Predictions only: no result depends on their being right.
class LabelDrafter {
 public:
  // `prompt` are the user's words, English or Chinese; of long ones only the beginning is read.
  explicit LabelDrafter(absl::string_view prompt);

  // What completes a label of which `begun` is written ("" where it is complete), or nullopt.
  // `earlier`: labels of the same answer, the newest last.
  std::optional<std::string> Rest(absl::string_view begun,
                                  absl::Span<const std::string> earlier) const;
  // The prompt asks for more than one thing.
  bool many() const { return many_; }
  // The best first.
  absl::Span<const std::string> candidates() const { return candidates_; }

 private:
  void Add(absl::string_view candidate);
  void AddEnglish(absl::string_view phrase);
  void AddChinese(absl::string_view phrase);

  std::vector<std::string> candidates_;
  bool many_ = false;
};

}  // namespace chord::grammar
