// The settings of chord.config.v1 one by one, by path: "gateway.max_in_flight".
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace chord::config {

// One setting: a scalar, a list of texts or a list of peers.
struct Setting {
  std::string path;
  std::vector<const google::protobuf::FieldDescriptor*> steps;  // from the root; never empty
  const google::protobuf::FieldDescriptor* field() const { return steps.back(); }
  bool is_peer() const;
};

// All settings of a message type, in the order of its fields; messages in it are entered.
std::vector<Setting> SettingsOf(const google::protobuf::Descriptor* type);

// "an integer", "true or false", "NAME=ADDRESS", …
absl::string_view TypeWord(const google::protobuf::FieldDescriptor* field);

// Sets the setting from text; a list gets one more element. Whole numbers of bytes take the
// suffixes KiB, MiB and GiB, a peer is NAME=ADDRESS. False when `text` is no such value.
bool SetFromText(const Setting& setting, absl::string_view text,
                 google::protobuf::Message* settings);
void Clear(const Setting& setting, google::protobuf::Message* settings);

// Whether it differs from "not given" (0, an empty text, an empty list).
bool IsSet(const Setting& setting, const google::protobuf::Message& settings);
// As YAML that reads back as the same value; "" when it is not set.
std::string ToYaml(const Setting& setting, const google::protobuf::Message& settings);

// What config.proto says about a field of a message, in one line.
std::string CommentOf(absl::string_view message, absl::string_view field);
std::string CommentOf(const Setting& setting);
// The default as the comment states it ("64", "20 MiB"); "" when it states none.
std::string DefaultOf(const Setting& setting);

}  // namespace chord::config
