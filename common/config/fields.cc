#include "common/config/fields.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/checked_math.h"
#include "common/config/config_text.h"
#include "common/obs/log.h"

namespace chord::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

void AddSettings(const Descriptor* type, const Setting& above, std::vector<Setting>* out) {
  for (int i = 0; i < type->field_count(); ++i) {
    Setting setting = above;
    setting.steps.push_back(type->field(i));
    absl::StrAppend(&setting.path, setting.path.empty() ? "" : ".", type->field(i)->name());
    const bool section =
        setting.field()->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !setting.is_peer();
    if (section) {
      AddSettings(setting.field()->message_type(), setting, out);
    } else {
      out->push_back(std::move(setting));
    }
  }
}

// The message that holds the field.
Message* Holder(const Setting& setting, Message* root) {
  for (size_t i = 0; i + 1 < setting.steps.size(); ++i) {
    root = root->GetReflection()->MutableMessage(root, setting.steps[i]);
  }
  return root;
}
const Message& Holder(const Setting& setting, const Message& root) {
  const Message* at = &root;
  for (size_t i = 0; i + 1 < setting.steps.size(); ++i) {
    at = &at->GetReflection()->GetMessage(*at, setting.steps[i]);
  }
  return *at;
}

bool ParseBytes(absl::string_view text, int64_t* out) {
  int64_t unit = 1;
  for (const auto& [suffix, bytes] : {std::pair<const char*, int64_t>("KiB", int64_t{1} << 10),
                                      {"MiB", int64_t{1} << 20},
                                      {"GiB", int64_t{1} << 30}}) {
    if (absl::ConsumeSuffix(&text, suffix)) unit = bytes;
  }
  int64_t count = 0;
  return absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &count) &&
         !__builtin_mul_overflow(count, unit, out);
}

bool ParseNumber(absl::string_view text, double* out) {
  return absl::SimpleAtod(text, out) && std::isfinite(*out) && std::abs(*out) <= 1e18;
}

bool AddPeer(const FieldDescriptor* field, absl::string_view text, Message* holder) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos || equals == 0) return false;
  Message* peer = holder->GetReflection()->AddMessage(holder, field);
  const Descriptor* type = field->message_type();
  const Reflection* reflection = peer->GetReflection();
  reflection->SetString(peer, type->FindFieldByName("name"), std::string(text.substr(0, equals)));
  reflection->SetString(peer, type->FindFieldByName("address"),
                        std::string(text.substr(equals + 1)));
  return true;
}

std::string PeerText(const Message& peer) {
  const Descriptor* type = peer.GetDescriptor();
  const Reflection* reflection = peer.GetReflection();
  return absl::StrCat(reflection->GetString(peer, type->FindFieldByName("name")), "=",
                      reflection->GetString(peer, type->FindFieldByName("address")));
}

std::string ListYaml(const FieldDescriptor* field, const Message& holder) {
  const Reflection* reflection = holder.GetReflection();
  std::vector<std::string> items;
  for (int i = 0; i < reflection->FieldSize(holder, field); ++i) {
    items.push_back(obs::JsonQuote(field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE
                                       ? PeerText(reflection->GetRepeatedMessage(holder, field, i))
                                       : reflection->GetRepeatedString(holder, field, i)));
  }
  return absl::StrCat("[", absl::StrJoin(items, ", "), "]");
}

}  // namespace

bool Setting::is_peer() const {
  return field()->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
         field()->message_type()->name() == "Peer";
}

std::vector<Setting> SettingsOf(const Descriptor* type) {
  std::vector<Setting> out;
  AddSettings(type, {}, &out);
  return out;
}

absl::string_view TypeWord(const FieldDescriptor* field) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
      return "an integer";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    default:
      return "NAME=ADDRESS";
  }
}

bool SetFromText(const Setting& setting, absl::string_view text, Message* settings) {
  Message* holder = Holder(setting, settings);
  const FieldDescriptor* field = setting.field();
  const Reflection* reflection = holder->GetReflection();
  int64_t integer = 0;
  double number = 0;
  bool flag = false;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (field->is_repeated()) {
        reflection->AddString(holder, field, std::string(text));
      } else {
        reflection->SetString(holder, field, std::string(text));
      }
      return true;
    case FieldDescriptor::CPPTYPE_INT32:
      if (!absl::SimpleAtoi(text, &integer) || integer != static_cast<int32_t>(integer)) {
        return false;
      }
      reflection->SetInt32(holder, field, static_cast<int32_t>(integer));
      return true;
    case FieldDescriptor::CPPTYPE_INT64:
      if (absl::EndsWith(field->name(), "bytes") ? !ParseBytes(text, &integer)
                                                 : !absl::SimpleAtoi(text, &integer)) {
        return false;
      }
      reflection->SetInt64(holder, field, integer);
      return true;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      if (!ParseNumber(text, &number)) return false;
      reflection->SetDouble(holder, field, number);
      return true;
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!absl::SimpleAtob(text, &flag)) return false;
      reflection->SetBool(holder, field, flag);
      return true;
    default:
      return setting.is_peer() && AddPeer(field, text, holder);
  }
}

void Clear(const Setting& setting, Message* settings) {
  Message* holder = Holder(setting, settings);
  holder->GetReflection()->ClearField(holder, setting.field());
}

bool IsSet(const Setting& setting, const Message& settings) {
  const Message& holder = Holder(setting, settings);
  const Reflection* reflection = holder.GetReflection();
  return setting.field()->is_repeated() ? reflection->FieldSize(holder, setting.field()) > 0
                                        : reflection->HasField(holder, setting.field());
}

std::string ToYaml(const Setting& setting, const Message& settings) {
  if (!IsSet(setting, settings)) return "";
  const Message& holder = Holder(setting, settings);
  const FieldDescriptor* field = setting.field();
  const Reflection* reflection = holder.GetReflection();
  if (field->is_repeated()) return ListYaml(field, holder);
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection->GetInt32(holder, field));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection->GetInt64(holder, field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrCat(reflection->GetDouble(holder, field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(holder, field) ? "true" : "false";
    default:
      return obs::JsonQuote(reflection->GetString(holder, field));
  }
}

std::string CommentOf(absl::string_view message, absl::string_view field) {
  bool inside = false;
  std::string out;
  for (absl::string_view line : absl::StrSplit(kConfigText, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!inside) {
      inside = line == absl::StrCat("message ", message, " {");
      continue;
    }
    if (line == "}") break;
    const size_t comment = line.find("//");
    const absl::string_view code = absl::StripAsciiWhitespace(line.substr(0, comment));
    if (comment != absl::string_view::npos) {
      const absl::string_view text = absl::StripAsciiWhitespace(line.substr(comment + 2));
      absl::StrAppend(&out, out.empty() ? "" : " ", text);
    }
    if (code.empty()) continue;
    const std::vector<absl::string_view> words = absl::StrSplit(code, ' ');
    if (std::find(words.begin(), words.end(), field) != words.end()) return out;
    out.clear();
  }
  return "";
}

std::string CommentOf(const Setting& setting) {
  std::string out = CommentOf(setting.field()->containing_type()->name(), setting.field()->name());
  if (setting.is_peer()) {
    absl::StrAppend(&out, ". NAME=ADDRESS, an address being ", CommentOf("Peer", "address"));
  }
  return out;
}

std::string DefaultOf(const Setting& setting) {
  const std::string comment = CommentOf(setting);
  absl::string_view text = comment;
  const size_t at = std::min(text.find("default "), text.find("Default: "));
  if (at == absl::string_view::npos) return "";
  text.remove_prefix(at + absl::string_view("default ").size());
  absl::ConsumePrefix(&text, "and ceiling ");
  text = absl::StripAsciiWhitespace(text);
  size_t end = text.find(';');
  for (const char* stop : {", ceiling", ", at most", ". ", " (", ", on a GPU"}) {
    end = std::min(end, text.find(stop));
  }
  return std::string(absl::StripSuffix(text.substr(0, end), "."));
}

}  // namespace chord::config
