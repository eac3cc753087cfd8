#include "services/gateway/http/field_table.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"

namespace chord::gateway {

std::optional<std::string> FieldValue::Text() const {
  if (json_ == nullptr) return std::string(text_);
  if (!json_->is_string()) return std::nullopt;
  return std::move(json_->get_ref<std::string&>());
}

std::optional<bool> FieldValue::Flag() const {
  if (json_ != nullptr) {
    return json_->is_boolean() ? std::optional<bool>(json_->get<bool>()) : std::nullopt;
  }
  if (text_ != "true" && text_ != "false") return std::nullopt;
  return text_ == "true";
}

std::optional<int64_t> FieldValue::Integer() const {
  if (json_ != nullptr) {
    // An unsigned one beyond int64 is no number of ours either.
    if (!json_->is_number_integer()) return std::nullopt;
    if (json_->is_number_unsigned() && json_->get<uint64_t>() > INT64_MAX) return std::nullopt;
    return json_->get<int64_t>();
  }
  int64_t value = 0;
  const bool digits = !text_.empty() && text_.size() <= 18 &&
                      std::all_of(text_.begin(), text_.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(text_, &value)) return std::nullopt;
  return value;
}

std::optional<std::vector<std::string>> FieldValue::Texts(size_t max) const {
  if (json_ == nullptr) return std::vector<std::string>{std::string(text_)};
  if (!json_->is_array() || json_->size() > max) return std::nullopt;
  std::vector<std::string> out;
  for (nlohmann::json& item : *json_) {
    if (!item.is_string()) return std::nullopt;
    out.push_back(std::move(item.get_ref<std::string&>()));
  }
  return out;
}

absl::Status CheckFlat(const nlohmann::json& object, absl::string_view list) {
  for (auto member = object.begin(); member != object.end(); ++member) {
    if (member->is_array() && !list.empty() && member.key() == list) continue;
    if (member->is_structured()) {
      return errors::JsonMalformed(absl::StrCat("the field \"", Printable(member.key()),
                                                "\" may not be an array or an object"));
    }
  }
  return absl::OkStatus();
}

}  // namespace chord::gateway
