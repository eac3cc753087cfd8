// Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), as much of
// them as an answer needs: `event` and `data`; ids and retry times are passed over. Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace chord::cli {

struct SseEvent {
  std::string type;  // "" when the event has no name
  std::string data;  // lines joined with \n
};

class SseParser {
 public:
  // The events that are complete with `part`, in order. Events without data are none.
  std::vector<SseEvent> Add(absl::string_view part) {
    std::vector<SseEvent> out;
    for (const char c : part) {
      if (c == '\n' && after_return_) {  // the second half of \r\n
        after_return_ = false;
        continue;
      }
      after_return_ = c == '\r';
      if (c == '\n' || c == '\r') {
        EndLine(out);
      } else {
        line_.push_back(c);
      }
    }
    return out;
  }

  bool finished = false;  // for the caller: the last event has been seen

 private:
  void EndLine(std::vector<SseEvent>& out) {
    if (line_.empty()) {
      if (has_data_) out.push_back(std::exchange(event_, {}));
      event_ = {};
      has_data_ = false;
      return;
    }
    absl::string_view line = line_;
    const size_t colon = line.find(':');
    const absl::string_view name = line.substr(0, colon);
    absl::string_view value =
        colon == absl::string_view::npos ? absl::string_view() : line.substr(colon + 1);
    absl::ConsumePrefix(&value, " ");
    if (name == "event") event_.type = std::string(value);
    if (name == "data") {
      if (has_data_) event_.data.push_back('\n');
      event_.data.append(value.data(), value.size());
      has_data_ = true;
    }
    line_.clear();
  }

  std::string line_;
  SseEvent event_;
  bool has_data_ = false;
  bool after_return_ = false;
};

}  // namespace chord::cli
