#include "common/json/strict_json.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace chord {
namespace {

using nlohmann::json;

// Longest number or literal that any sane writer produces.
constexpr int64_t kMaxBareToken = 64;

class StrictDom final : public nlohmann::json_sax<json> {
 public:
  explicit StrictDom(json* root) : root_(root) {}
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
                   const nlohmann::detail::exception&) override {
    error_ = absl::StrCat("not valid JSON at byte ", position);
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
  bool Add(json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(json value) {
    open_.push_back(Place(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  json* root_;
  std::vector<json*> open_;  // stable: only the innermost container grows
  json* slot_ = nullptr;
  std::string error_;
};

}  // namespace

absl::Status CheckJsonBounds(absl::string_view text, const JsonLimits& limits) {
  int depth = 0;
  int64_t values = 1;
  int64_t run = 0;  // length of the current string or bare token
  bool in_string = false;
  const auto refuse = [&](size_t at, absl::string_view why) {
    return errors::CheckpointInvalid(absl::StrCat(why, " at byte ", at));
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (in_string) {
      if (c == '"') {
        in_string = false;
        run = 0;
      } else if (++run > limits.string_bytes) {
        return refuse(i, absl::StrCat("a string of more than ", limits.string_bytes, " bytes"));
      } else if (c == '\\') {
        ++i;
        ++run;
      }
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        run = 0;
        break;
      case '{':
      case '[':
        if (++depth > limits.depth) return refuse(i, "nested too deeply");
        [[fallthrough]];
      case ',':
        if (++values > limits.values) {
          return refuse(i, absl::StrCat("more than ", limits.values, " values"));
        }
        run = 0;
        break;
      case '}':
      case ']':
        --depth;
        [[fallthrough]];
      case ':':
      case ' ':
      case '\t':
      case '\n':
      case '\r':
        run = 0;
        break;
      default:
        if (c < 0x20 || c >= 0x7f) return refuse(i, "not valid JSON");
        if (++run > kMaxBareToken) return refuse(i, "a number or word that is too long");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<json> ParseStrictJson(absl::string_view text, const JsonLimits& limits) {
  CHORD_RETURN_IF_ERROR(CheckJsonBounds(text, limits));
  json root;
  StrictDom dom(&root);
  try {
    if (!json::sax_parse(text.begin(), text.end(), &dom)) {
      return errors::CheckpointInvalid(dom.error());
    }
  } catch (const std::exception&) {
    return errors::CheckpointInvalid("not valid JSON");
  }
  if (!root.is_object()) return errors::CheckpointInvalid("must hold one JSON object");
  return root;
}

}  // namespace chord
