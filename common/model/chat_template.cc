// Recognises the ChatML form of spec §6.1 in a checkpoint's Jinja template. The template is not
// run. It is reduced to what it writes, the skeleton of its literal texts and expressions in order,
// and the skeleton must be the known one: a template that writes anything else is refused.
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/model/prompt.h"

namespace chord::model {
namespace {

using nlohmann::json;

absl::Status Bad(absl::string_view what) {
  return errors::CheckpointInvalid(absl::StrCat("chat template: ", what));
}

// --- Jinja in, nodes out
// ---------------------------------------------------------------------------

struct Node {
  enum Kind { kText, kExpression, kStatement } kind;
  std::string body;
};

// "message['role']" and "message.role" are one spelling; so are both kinds of quotes; blanks go.
std::string Canonical(absl::string_view code) {
  std::string out;
  char quote = 0;
  for (const char c : code) {
    if (quote == 0 && absl::ascii_isspace(static_cast<unsigned char>(c))) {
      if (!out.empty() && out.back() != ' ') out.push_back(' ');
      continue;
    }
    if ((c == '\'' || c == '"') && (quote == 0 || quote == c)) {
      quote = quote == 0 ? c : 0;
      out.push_back('\'');
      continue;
    }
    out.push_back(c);
  }
  absl::StripTrailingAsciiWhitespace(&out);
  for (size_t at; (at = out.find("['")) != std::string::npos;) {
    const size_t end = out.find("']", at + 2);
    if (end == std::string::npos) break;
    out.replace(at, end + 2 - at, "." + out.substr(at + 2, end - at - 2));
  }
  return out;
}

// The value of a quoted constant, or nullopt when `code` is something else.
std::optional<std::string> Constant(absl::string_view code) {
  if (code.size() < 2 || code.front() != code.back() ||
      (code.front() != '\'' && code.front() != '"')) {
    return std::nullopt;
  }
  std::string out;
  for (size_t i = 1; i + 1 < code.size(); ++i) {
    if (code[i] == code.front()) return std::nullopt;
    if (code[i] != '\\') {
      out.push_back(code[i]);
      continue;
    }
    if (++i + 1 >= code.size()) return std::nullopt;
    out.push_back(code[i] == 'n' ? '\n' : code[i] == 't' ? '\t' : code[i]);
  }
  return out;
}

// Splits at '+' outside quotes, brackets and parentheses.
std::vector<absl::string_view> Summands(absl::string_view code) {
  std::vector<absl::string_view> out;
  char quote = 0;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i < code.size(); ++i) {
    const char c = code[i];
    if (quote != 0) {
      if (c == '\\') ++i;
      if (c == quote) quote = 0;
    } else if (c == '\'' || c == '"') {
      quote = c;
    } else if (c == '(' || c == '[') {
      ++depth;
    } else if (c == ')' || c == ']') {
      --depth;
    } else if (c == '+' && depth == 0) {
      out.push_back(code.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  out.push_back(code.substr(begin));
  return out;
}

// Cuts a template into nodes, with the white-space control of the reference: "-" strips all blanks
// on its side; a statement also takes the blanks of its line before it and one newline after it.
absl::StatusOr<std::vector<Node>> Parse(absl::string_view source) {
  std::vector<Node> nodes;
  const auto text = [&nodes](absl::string_view t) {
    if (t.empty()) return;
    if (nodes.empty() || nodes.back().kind != Node::kText) nodes.push_back({Node::kText, ""});
    absl::StrAppend(&nodes.back().body, t);
  };
  absl::ConsumeSuffix(&source, "\n");
  bool strip_left = false, drop_newline = false;
  while (!source.empty()) {
    size_t open = 0;
    while (open < source.size() &&
           !(source[open] == '{' && open + 1 < source.size() &&
             (source[open + 1] == '{' || source[open + 1] == '%' || source[open + 1] == '#'))) {
      ++open;
    }
    absl::string_view literal = source.substr(0, open);
    const bool last = open == source.size();
    const bool output = !last && source[open + 1] == '{';
    if (drop_newline) absl::ConsumePrefix(&literal, "\n");
    if (strip_left) literal = absl::StripLeadingAsciiWhitespace(literal);
    if (last) {
      text(literal);
      break;
    }
    const char kind = output ? '}' : source[open + 1];  // what the closing brace follows
    source.remove_prefix(open + 2);
    const size_t close = source.find(std::string{kind, '}'});
    if (close == absl::string_view::npos) return Bad("an unfinished tag");
    absl::string_view body = source.substr(0, close);
    source.remove_prefix(close + 2);
    const bool strip_before = absl::ConsumePrefix(&body, "-");
    strip_left = absl::ConsumeSuffix(&body, "-");
    drop_newline = !output;
    if (strip_before) {
      literal = absl::StripTrailingAsciiWhitespace(literal);
    } else if (!output) {
      size_t end = literal.size();
      while (end > 0 && (literal[end - 1] == ' ' || literal[end - 1] == '\t')) --end;
      if (end > 0 ? literal[end - 1] == '\n' : nodes.empty()) literal = literal.substr(0, end);
    }
    text(literal);
    body = absl::StripAsciiWhitespace(body);
    if (kind == '%') {
      nodes.push_back({Node::kStatement, Canonical(body)});
    } else if (output) {
      for (const absl::string_view summand : Summands(body)) {
        const absl::string_view part = absl::StripAsciiWhitespace(summand);
        if (const auto constant = Constant(part)) {
          text(*constant);
        } else {
          nodes.push_back({Node::kExpression, Canonical(part)});
        }
      }
    }
  }
  return nodes;
}

// --- nodes in, skeleton out
// ------------------------------------------------------------------------

// Which branches belong to things that Chord never asks for: numbered pictures and video.
bool OpensUnusedBranch(absl::string_view statement) {
  const bool conditional =
      absl::StartsWith(statement, "if ") || absl::StartsWith(statement, "elif ");
  return conditional &&
         (absl::StrContains(statement, "add_vision_id") || absl::StrContains(statement, "video"));
}

// What the used branches write, in order: text as it is, an expression as \x01 + name + \x02, where
// the name is the last part of a path ("message.role" -> "role").
std::string Skeleton(const std::vector<Node>& nodes) {
  std::string out;
  int depth = 0;      // of if-blocks
  int unused_at = 0;  // depth of the if-block whose current branch is unused; 0: none
  for (const Node& node : nodes) {
    if (node.kind == Node::kStatement) {
      const absl::string_view s = node.body;
      if (absl::StartsWith(s, "if ")) {
        ++depth;
        if (unused_at == 0 && OpensUnusedBranch(s)) unused_at = depth;
      } else if (absl::StartsWith(s, "elif ") || s == "else") {
        if (unused_at == depth) unused_at = 0;
        if (unused_at == 0 && OpensUnusedBranch(s)) unused_at = depth;
      } else if (s == "endif") {
        if (unused_at == depth) unused_at = 0;
        --depth;
      }
    } else if (unused_at == 0) {
      if (node.kind == Node::kText) {
        absl::StrAppend(&out, node.body);
      } else {
        const size_t dot = node.body.rfind('.');
        absl::StrAppend(&out, "\x01", node.body.substr(dot == std::string::npos ? 0 : dot + 1),
                        "\x02");
      }
    }
  }
  return out;
}

bool Mentions(const std::vector<Node>& nodes, absl::string_view text) {
  for (const Node& node : nodes) {
    if (node.kind == Node::kStatement && absl::StrContains(node.body, text)) return true;
  }
  return false;
}

absl::StatusOr<ChatTemplate> Recognise(absl::string_view source) {
  static constexpr absl::string_view kHead = "<|im_start|>system\n";
  static constexpr absl::string_view kTurn = "<|im_end|>\n<|im_start|>\x01role\x02\n";
  static constexpr absl::string_view kImage = "<|vision_start|><|image_pad|><|vision_end|>";
  static constexpr absl::string_view kTail = "<|im_end|>\n<|im_start|>assistant\n";
  CHORD_ASSIGN_OR_RETURN(const std::vector<Node> nodes, Parse(source));
  const std::string skeleton = Skeleton(nodes);
  absl::string_view rest = skeleton;
  if (!absl::ConsumePrefix(&rest, kHead)) {
    return Bad("it does not begin with a default system message in ChatML form");
  }
  const size_t turn = rest.find(kTurn);
  if (turn == absl::string_view::npos) return Bad("no turn of the form role, newline, content");
  ChatTemplate chat;
  chat.default_system = std::string(rest.substr(0, turn));
  rest.remove_prefix(turn + kTurn.size());
  if (absl::StrContains(chat.default_system, "<|") ||
      chat.default_system.find_first_of("\x01\x02") != std::string::npos) {
    return Bad("the default system message is not plain text");
  }
  // A turn's content as one string: closed in its own branch, or together with the list form.
  if (absl::ConsumePrefix(&rest,
                          "\x01"
                          "content\x02"))
    absl::ConsumePrefix(&rest, "<|im_end|>\n");
  if (!absl::ConsumePrefix(&rest, kImage)) return Bad("no image of the form start, pad, end");
  if (!absl::ConsumePrefix(&rest, "\x01text\x02") && !absl::ConsumePrefix(&rest,
                                                                          "\x01"
                                                                          "content\x02")) {
    return Bad("no text beside the image");
  }
  if (rest != kTail) return Bad("it writes something after the content that ChatML does not have");
  if (!Mentions(nodes, "system") || !Mentions(nodes, "add_generation_prompt") ||
      !Mentions(nodes, "for ")) {
    return Bad("its conditions are not those of ChatML");
  }
  return chat;
}

// --- files
// -----------------------------------------------------------------------------------------

// nullopt when the file does not exist.
absl::StatusOr<std::optional<std::string>> ReadIfThere(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return std::optional<std::string>();
  const std::streamoff size = in.tellg();
  if (size < 0 || size > limits::kMaxConfigBytes) return Bad("a file is too large");
  std::string content(static_cast<size_t>(size), '\0');
  in.seekg(0);
  if (!in.read(content.data(), size)) return Bad("a file cannot be read");
  return std::optional<std::string>(std::move(content));
}

// The member chat_template of a JSON file: a string, or a list of {name, template} of which the one
// named "default" counts. nullopt when there is none.
absl::StatusOr<std::optional<std::string>> TemplateOf(absl::string_view file,
                                                      const std::string& content) {
  try {
    const json root = json::parse(content, nullptr, /*allow_exceptions=*/false);
    if (!root.is_object()) return Bad(absl::StrCat(file, " is not a JSON object"));
    const auto found = root.find("chat_template");
    if (found == root.end() || found->is_null()) return std::optional<std::string>();
    if (found->is_string()) return std::optional<std::string>(found->get<std::string>());
    if (found->is_array()) {
      for (const json& entry : *found) {
        if (entry.is_object() && entry.value("name", json()) == "default" &&
            entry.contains("template") && entry["template"].is_string()) {
          return std::optional<std::string>(entry["template"].get<std::string>());
        }
      }
    }
    return Bad(absl::StrCat(file, ": chat_template is neither a string nor a list with a default"));
  } catch (const std::exception&) {
    return Bad(absl::StrCat(file, " is not valid JSON"));
  }
}

}  // namespace

absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& dir) {
  CHORD_ASSIGN_OR_RETURN(auto jinja, ReadIfThere(dir + "/chat_template.jinja"));
  if (jinja.has_value()) return Recognise(*jinja);
  for (const char* file : {"chat_template.json", "tokenizer_config.json"}) {
    CHORD_ASSIGN_OR_RETURN(const auto content, ReadIfThere(absl::StrCat(dir, "/", file)));
    if (!content.has_value()) continue;
    CHORD_ASSIGN_OR_RETURN(const auto source, TemplateOf(file, *content));
    if (source.has_value()) return Recognise(*source);
  }
  return Bad(
      "none found; looked for chat_template.jinja, chat_template.json and the chat_template of "
      "tokenizer_config.json");
}

}  // namespace chord::model
