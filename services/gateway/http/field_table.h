// The fields of a request, whatever body they came in, and the table that says what each is.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/errors.h"

namespace chord::gateway {

// One value of a field: the text of a form, or a value of JSON. Points to either.
class FieldValue {
 public:
  explicit FieldValue(absl::string_view text) : text_(text) {}
  // Texts are moved out of `json`.
  explicit FieldValue(nlohmann::json& json) : json_(&json) {}

  bool is_json() const { return json_ != nullptr; }
  bool is_null() const { return json_ != nullptr && json_->is_null(); }
  absl::string_view form_text() const { return text_; }
  // Of JSON or a form. nullopt when JSON has another type there.
  std::optional<std::string> Text() const;
  // "true" or "false" of a form, true or false of JSON.
  std::optional<bool> Flag() const;
  // Decimal digits alone of a form, an integer of JSON.
  std::optional<int64_t> Integer() const;
  // A JSON list of at most `max` texts; of a form its one text. nullopt: anything else.
  std::optional<std::vector<std::string>> Texts(size_t max) const;

 private:
  absl::string_view text_;
  nlohmann::json* json_ = nullptr;
};

// What a field of `Form` is called and how it is taken. `set` may be called once a request.
template <typename Form>
struct FieldSpec {
  absl::string_view name;
  absl::Status (*set)(const FieldValue& value, Form& form);
};

// FIELD_UNKNOWN unless the table has `name`; else the outcome of its `set`. A null of JSON is
// absent.
template <typename Form>
absl::Status SetField(absl::Span<const FieldSpec<Form>> table, absl::string_view name,
                      const FieldValue& value, Form& form) {
  for (const FieldSpec<Form>& field : table) {
    if (field.name == name) return value.is_null() ? absl::OkStatus() : field.set(value, form);
  }
  return errors::FieldUnknown(name);
}

// BODY_MALFORMED for a member that is an array or an object, but for an array called `list`.
absl::Status CheckFlat(const nlohmann::json& object, absl::string_view list = "");
// Sets every member of a JSON object by the table; null is absent.
template <typename Form>
absl::Status SetFields(absl::Span<const FieldSpec<Form>> table, nlohmann::json& object,
                       Form& form) {
  for (auto member = object.begin(); member != object.end(); ++member) {
    absl::Status status = SetField(table, member.key(), FieldValue(*member), form);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace chord::gateway
