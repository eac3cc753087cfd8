#include "common/model/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::model {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// The template of the published checkpoints.
constexpr char kPublished[] =
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for "
    "message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if "
    "message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content "
    "in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' "
    "in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Image "
    "{{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif "
    "content['type'] == 'video' or 'video' in content %}{% set video_count.value = "
    "video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif "
    "%}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] "
    "}}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt "
    "%}<|im_start|>assistant\n{% endif %}";

// The same laid out over lines, in the other quotes, with constants in expressions.
constexpr char kLaidOut[] = R"({# a comment #}
{%- for message in messages %}
    {%- if loop.first and message.role != "system" %}
        {{- "<|im_start|>system\nBe brief.<|im_end|>\n" }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for item in message.content %}
            {%- if item.type == "image" %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif "text" in item %}
                {{- item.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
)";

std::string Render(const ChatTemplate& chat, const std::vector<Message>& messages) {
  const auto text = chat.Render(messages);
  return text.ok() ? text->bytes() : std::string(text.status().message());
}

// The system text that the template puts before a prompt that has none; nullopt: it has no turn.
std::optional<std::string> DefaultSystem(const absl::StatusOr<ChatTemplate>& chat) {
  if (!chat.ok()) return "error: " + std::string(chat.status().message());
  const std::string text = Render(*chat, {{"user", {"x"}}});
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "<|im_start|>system\n")) return std::nullopt;
  return std::string(rest.substr(0, rest.find("<|im_end|>")));
}

class ChatTemplateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/chat_template_" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(dir_ + "/" + name) << content;
  }
  absl::StatusOr<ChatTemplate> Load() { return LoadChatTemplate(dir_); }
  absl::StatusOr<ChatTemplate> LoadJinja(const std::string& source) {
    Write("chat_template.jinja", source);
    return Load();
  }

  std::string dir_;
};

TEST_F(ChatTemplateTest, ReadsEveryPlaceInOrder) {
  const auto with = [](const std::string& system) {
    return absl::StrReplaceAll(kPublished, {{"You are a helpful assistant.", system}});
  };
  Write("tokenizer_config.json", json{{"chat_template", with("third")}}.dump());
  EXPECT_EQ(DefaultSystem(Load()), "third");
  Write("chat_template.jinja", with("second"));
  EXPECT_EQ(DefaultSystem(Load()), "second");
  Write("chat_template.json", json{{"chat_template", with("first")}}.dump());
  EXPECT_EQ(DefaultSystem(Load()), "first");
  Write("processor_config.json", json{{"processor_class", "Qwen2_5_VLProcessor"}}.dump());
  EXPECT_EQ(DefaultSystem(Load()), "first");
  Write("processor_config.json", json{{"chat_template", with("zeroth")}}.dump());
  EXPECT_EQ(DefaultSystem(Load()), "zeroth");
}

TEST_F(ChatTemplateTest, TakesTheDefaultOfAList) {
  Write("tokenizer_config.json", json{{"chat_template",
                                       {{{"name", "tool_use"}, {"template", "x"}},
                                        {{"name", "default"}, {"template", kPublished}}}}}
                                     .dump());
  ASSERT_TRUE(Load().ok()) << Load().status();
  EXPECT_EQ(DefaultSystem(Load()), "You are a helpful assistant.");
}

TEST_F(ChatTemplateTest, TakesTheDefaultOfAnObject) {
  Write("chat_template.json",
        json{{"chat_template", {{"rag", "x"}, {"default", kPublished}}}}.dump());
  ASSERT_TRUE(Load().ok()) << Load().status();
}

TEST_F(ChatTemplateTest, ReadsEveryLineEnd) {
  for (const char* end : {"\r\n", "\r"}) {
    const auto chat = LoadJinja(absl::StrReplaceAll(
        kPublished, {{"You are a helpful assistant.", "One.\nTwo."}, {"\n", end}}));
    ASSERT_TRUE(chat.ok()) << chat.status();
    EXPECT_EQ(DefaultSystem(chat), "One.\nTwo.");
  }
}

TEST_F(ChatTemplateTest, ReadsEscapesInConstants) {
  const auto chat = LoadJinja(
      absl::StrReplaceAll(kLaidOut, {{"Be brief.", R"(\"\u4f60\\\'\x41\U0001F600\t\d)"}}));
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(DefaultSystem(chat), "\"\u4f60\\'A\U0001F600\t\\d");
  for (const char* bad : {R"(\u12)", R"(\ud800)", R"(\U00110000)"}) {
    EXPECT_FALSE(LoadJinja(absl::StrReplaceAll(kLaidOut, {{"Be brief.", bad}})).ok()) << bad;
  }
}

TEST_F(ChatTemplateTest, ReadsTemplatesWithoutADefaultSystemMessage) {
  std::string source = kPublished;
  const size_t begin = source.find("{% if loop.first"), end = source.find("{% endif %}", begin);
  source.erase(begin, end + 11 - begin);
  const auto chat = LoadJinja(source);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_FALSE(DefaultSystem(chat).has_value());
}

TEST_F(ChatTemplateTest, RefusesFilesThatAreNone) {
  for (const char* name : {"chat_template.json", "chat_template.jinja", "tokenizer_config.json"}) {
    const std::string path = dir_ + "/" + name;
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_THAT(Load().status(), HasReason(Reason::kCheckpointInvalid)) << name;
    std::filesystem::remove(path);
    std::filesystem::create_symlink(name, path);  // to itself
    EXPECT_THAT(Load().status(), HasReason(Reason::kCheckpointInvalid)) << name;
    std::filesystem::remove(path);
    Write(name, "{\"chat_template\": " + std::string(1 << 20, '['));
    EXPECT_THAT(Load().status(), HasReason(Reason::kCheckpointInvalid)) << name;
    std::filesystem::remove(path);
  }
}

TEST_F(ChatTemplateTest, ReadsChordNano) {
  const auto chat = LoadChatTemplate(std::string(CHORD_SOURCE_DIR) + "/models/chord-nano");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(DefaultSystem(chat), "You are a helpful assistant.");
}

TEST_F(ChatTemplateTest, ReadsOtherLayoutsOfTheSame) {
  const auto chat = LoadJinja(kLaidOut);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(DefaultSystem(chat), "Be brief.");
}

TEST_F(ChatTemplateTest, RefusesTemplatesThatCannotServe) {
  const std::pair<std::string, std::string> edits[] = {
      {"<|vision_start|><|image_pad|><|vision_end|>{% elif", "<image>{% elif"},  // no place
      {"<|image_pad|>", "<|image_pad|><|image_pad|>"},                           // two of them
      {"<|im_start|>{{", "{{ raise_exception('no') }}{{"},
      {"{{ message['role'] }}\n", "{{ message.role.name.first }}\n"},
      {"{{ content['text'] }}", "{{ content['text'] | xmlattr }}"},
      {"{% endfor %}{% if add", "{% endfor %"},
  };
  for (const auto& [from, to] : edits) {
    const auto chat = LoadJinja(absl::StrReplaceAll(kPublished, {{from, to}}));
    EXPECT_THAT(chat.status(), HasReason(Reason::kCheckpointInvalid)) << to;
  }
  EXPECT_THAT(std::string(LoadJinja("{{ x | xmlattr }}").status().message()),
              HasSubstr("line 1: the filter \"xmlattr\""));
}

TEST_F(ChatTemplateTest, ServesWhatTheTemplateWritesAndNothingElse) {
  struct Case {
    std::string from, to, wanted;  // an edit of the published template, and what it renders
  };
  const std::string image = "<|vision_start|><|image_pad|><|vision_end|>";
  const std::string system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
  const std::string user = "<|im_start|>user\n" + image + "a cat<|im_end|>\n";
  const std::string last = "<|im_start|>assistant\n";
  const Case cases[] = {
      {"", "", system + user + last},
      {last, last + "<think>\n", system + user + last + "<think>\n"},
      {last, "<|im_start|>bot\n", system + user + "<|im_start|>bot\n"},
      {"{% if loop.first and", "{% if tools and", user + last},
      {"{% if loop.first and", "{% if false and", user + last},
      {"{{ message['role'] }}\n", "{{ message['role'] }}: ",
       system + "<|im_start|>user: " + image + "a cat<|im_end|>\n" + last},
      {"{{ content['text'] }}", "{{ content['text'] | reverse }}",
       system + "<|im_start|>user\n" + image + "tac a<|im_end|>\n" + last},
      {"You are a helpful assistant.", "Today is {{ today }}.",
       "<|im_start|>system\nToday is .<|im_end|>\n" + user + last},
      {"{% if add_generation_prompt", "{% if not add_generation_prompt", system + user},
  };
  for (const Case& c : cases) {
    const auto chat =
        LoadJinja(c.from.empty() ? kPublished : absl::StrReplaceAll(kPublished, {{c.from, c.to}}));
    ASSERT_TRUE(chat.ok()) << chat.status() << c.to;
    EXPECT_EQ(Render(*chat, {{"user", {ImagePart{0}, "a cat"}}}), c.wanted);
  }
}

TEST_F(ChatTemplateTest, KnowsTheSpecialTokensOfTheTokenizer) {
  Write("tokenizer_config.json",
        R"({"bos_token": {"content": "<|b|>"}, "eos_token": "<|e|>", "pad_token": null})");
  const std::string source =
      "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}<|image_pad|>";
  const auto chat = LoadJinja(source);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(Render(*chat, {{"user", {"x"}}}), "<|b|><|e|><|endoftext|><|image_pad|>");
}

TEST_F(ChatTemplateTest, SaysWhyTheTemplateRefusesAConversation) {
  const auto chat = LoadJinja(
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system text') }}"
      "{% endif %}<|image_pad|>{% endfor %}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const std::vector<Message> messages = {{"system", {"x"}}};
  const auto text = chat->Render(messages);
  EXPECT_THAT(text.status(), HasReason(Reason::kParameterInvalid));
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("No system text"));
}

TEST_F(ChatTemplateTest, SaysWhereItLookedWhenThereIsNone) {
  Write("tokenizer_config.json", "{}");
  const auto chat = Load();
  EXPECT_THAT(chat.status(), HasReason(Reason::kCheckpointInvalid));
  for (const char* name : {"chat_template.jinja", "chat_template.json", "tokenizer_config.json"}) {
    EXPECT_THAT(std::string(chat.status().message()), HasSubstr(name));
  }
}

TEST_F(ChatTemplateTest, RefusesFilesOfTheWrongShape) {
  for (const char* content : {"", "[", "[]", "{\"chat_template\": 7}", "{\"chat_template\": [3]}",
                              "{\"chat_template\": \"{{\"}", "{\"chat_template\": \"\"}"}) {
    Write("chat_template.json", content);
    EXPECT_THAT(Load().status(), HasReason(Reason::kCheckpointInvalid)) << content;
  }
}

}  // namespace
}  // namespace chord::model
