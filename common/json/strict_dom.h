// Builds a tree of JSON in which no key occurs twice, within bounds. Internal to common/json.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"

namespace chord::internal {

class StrictDom final : public nlohmann::json_sax<nlohmann::json> {
 public:
  using json = nlohmann::json;
  // `depth` of nested arrays and objects, `values` of all kinds together.
  explicit StrictDom(json* root, int depth = std::numeric_limits<int>::max(),
                     int64_t values = std::numeric_limits<int64_t>::max())
      : root_(root), max_depth_(depth), max_values_(values) {}
  // Why the parse ended; reads after "the JSON has" or "it is", without a full stop.
  const std::string& error() const { return error_; }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Open(json::object()); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    auto [slot, fresh] = open_.back()->get_ref<json::object_t&>().emplace(name, nullptr);
    if (!fresh) {
      error_ = absl::StrCat("the key \"", Printable(name), "\" occurs twice");
      return false;
    }
    slot_ = &slot->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // The parser's own text is not passed on, but it alone tells this case from a missing quote.
    error_ =
        absl::StrContains(error.what(), "surrogate")
            ? absl::StrCat("an unpaired surrogate escape (\\ud800 to \\udfff) at byte ", position)
            : absl::StrCat("not valid JSON at byte ", position);
    return false;
  }

 private:
  json* Place(json value) {
    json* place = root_;
    if (!open_.empty() && open_.back()->is_array()) {
      open_.back()->push_back(nullptr);
      place = &open_.back()->back();
    } else if (!open_.empty()) {
      place = slot_;
    }
    *place = std::move(value);
    return place;
  }
  bool Count() {
    if (++values_ <= max_values_) return true;
    error_ = absl::StrCat("more than ", max_values_, " values");
    return false;
  }
  bool Add(json value) {
    if (!Count()) return false;
    Place(std::move(value));
    return true;
  }
  bool Open(json value) {
    if (!Count()) return false;
    if (open_.size() >= static_cast<size_t>(max_depth_)) {
      error_ = absl::StrCat("more than ", max_depth_, " nested arrays and objects");
      return false;
    }
    open_.push_back(Place(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  json* root_;
  const int max_depth_;
  const int64_t max_values_;
  int64_t values_ = 0;
  std::vector<json*> open_;  // stable: only the innermost container grows
  json* slot_ = nullptr;
  std::string error_;
};

}  // namespace chord::internal
