#include "common/config/config.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/config/config_text.h"

namespace chord::config {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat("line ", line + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

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

bool SetField(const FieldDescriptor* field, const std::string& value, Message* config) {
  const google::protobuf::Reflection* reflection = config->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (field->is_repeated()) {
        reflection->AddString(config, field, value);
      } else {
        reflection->SetString(config, field, value);
      }
      return true;
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t number;
      if (!absl::SimpleAtoi(value, &number)) return false;
      reflection->SetInt32(config, field, number);
      return true;
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t number;
      if (!absl::SimpleAtoi(value, &number)) return false;
      reflection->SetInt64(config, field, number);
      return true;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double number;
      if (!absl::SimpleAtod(value, &number) || !(number == number) || number > 1e18 ||
          number < -1e18) {
        return false;
      }
      reflection->SetDouble(config, field, number);
      return true;
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool flag;
      if (!absl::SimpleAtob(value, &flag)) return false;
      reflection->SetBool(config, field, flag);
      return true;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      // The one message type of our settings is Peer: NAME=ADDRESS.
      const size_t equals = value.find('=');
      if (!field->is_repeated() || equals == std::string::npos || equals == 0) return false;
      const auto* type = field->message_type();
      const FieldDescriptor* name = type->FindFieldByName("name");
      const FieldDescriptor* address = type->FindFieldByName("address");
      if (name == nullptr || address == nullptr) return false;
      Message* peer = reflection->AddMessage(config, field);
      peer->GetReflection()->SetString(peer, name, value.substr(0, equals));
      peer->GetReflection()->SetString(peer, address, value.substr(equals + 1));
      return true;
    }
    default:
      return false;
  }
}

// What the comments of a field say: those before it and the one behind it.
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

// `text` in lines of at most 76 bytes behind a margin.
void AppendWrapped(absl::string_view text, std::string* out) {
  constexpr size_t kWidth = 76;
  std::string line;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!line.empty() && line.size() + 1 + word.size() > kWidth) {
      absl::StrAppend(out, "      ", line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  if (!line.empty()) absl::StrAppend(out, "      ", line, "\n");
}

std::string Help(const Message& config) {
  std::string out =
      "Settings, as --name=value or as fields of --config FILE (protobuf text or JSON). 0 and an\n"
      "empty text stand for the default.\n";
  const auto* type = config.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    const bool is_peer = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    absl::StrAppend(&out, "  --", field->name(), "=", is_peer ? "NAME=ADDRESS" : TypeWord(field),
                    field->is_repeated() ? " (repeats)" : "", "\n");
    AppendWrapped(CommentOf(type->name(), field->name()), &out);
    if (is_peer) AppendWrapped(CommentOf("Peer", "address"), &out);
  }
  return out;
}

}  // namespace

absl::Status LoadConfigFile(const std::string& path, Message* config) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return errors::ConfigInvalid(absl::StrCat("Cannot read the settings file ", path, "."));
  std::string text(limits::kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (static_cast<int64_t>(text.size()) > limits::kMaxConfigBytes) {
    return errors::ConfigInvalid(absl::StrCat("The settings file ", path, " is too large."));
  }
  if (absl::StartsWith(absl::StripLeadingAsciiWhitespace(text), "{")) {
    const auto status = google::protobuf::util::JsonStringToMessage(text, config);
    if (status.ok()) return absl::OkStatus();
    return errors::ConfigInvalid(
        absl::StrCat("The settings file ", path, " is not valid: ", status.message().ToString()));
  }
  google::protobuf::TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  if (parser.ParseFromString(text, config)) return absl::OkStatus();
  return errors::ConfigInvalid(
      absl::StrCat("The settings file ", path, " is not valid: ", error.text()));
}

absl::Status ApplyFlags(const std::vector<std::string>& args, Message* config) {
  struct Flag {
    std::string name, value;
  };
  std::vector<Flag> flags;
  for (size_t i = 0; i < args.size(); ++i) {
    absl::string_view arg = args[i];
    if (arg == "--help" || arg == "-h") return absl::CancelledError(Help(*config));
    if (!absl::ConsumePrefix(&arg, "--")) {
      return errors::ConfigInvalid(absl::StrCat("\"", args[i], "\" is not a setting; see --help."));
    }
    const size_t equals = arg.find('=');
    if (equals != absl::string_view::npos) {
      flags.push_back({std::string(arg.substr(0, equals)), std::string(arg.substr(equals + 1))});
    } else if (i + 1 < args.size()) {
      flags.push_back({std::string(arg), args[++i]});
    } else {
      return errors::ConfigInvalid(absl::StrCat("--", arg, " needs a value; see --help."));
    }
  }
  for (const Flag& flag : flags) {
    if (flag.name != "config") continue;
    if (auto status = LoadConfigFile(flag.value, config); !status.ok()) return status;
  }
  std::vector<const FieldDescriptor*> replaced;  // a repeated flag replaces the file's list
  for (const Flag& flag : flags) {
    if (flag.name == "config") continue;
    const std::string name = absl::StrReplaceAll(flag.name, {{"-", "_"}});
    const FieldDescriptor* field = config->GetDescriptor()->FindFieldByName(name);
    if (field == nullptr) {
      return errors::ConfigInvalid(absl::StrCat("--", flag.name, " is not a setting; see --help."));
    }
    if (field->is_repeated() &&
        std::find(replaced.begin(), replaced.end(), field) == replaced.end()) {
      config->GetReflection()->ClearField(config, field);
      replaced.push_back(field);
    }
    if (!SetField(field, flag.value, config)) {
      return errors::ConfigInvalid(
          absl::StrCat("--", flag.name, " must be ", TypeWord(field), "."));
    }
  }
  return absl::OkStatus();
}

}  // namespace chord::config
