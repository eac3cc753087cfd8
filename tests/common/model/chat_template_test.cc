#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_replace.h"
#include "common/base/errors.h"
#include "common/model/prompt.h"

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
  const auto with = [](const std::string& sentence) {
    return absl::StrReplaceAll(kPublished, {{"You are a helpful assistant.", sentence}});
  };
  Write("tokenizer_config.json", json{{"chat_template", with("third")}}.dump());
  EXPECT_EQ(Load()->default_system, "third");
  Write("chat_template.jinja", with("second"));
  EXPECT_EQ(Load()->default_system, "second");
  Write("chat_template.json", json{{"chat_template", with("first")}}.dump());
  EXPECT_EQ(Load()->default_system, "first");
  Write("processor_config.json", json{{"processor_class", "Qwen2_5_VLProcessor"}}.dump());
  EXPECT_EQ(Load()->default_system, "first");
  Write("processor_config.json", json{{"chat_template", with("zeroth")}}.dump());
  EXPECT_EQ(Load()->default_system, "zeroth");
}

TEST_F(ChatTemplateTest, TakesTheDefaultOfAList) {
  Write("tokenizer_config.json", json{{"chat_template",
                                       {{{"name", "tool_use"}, {"template", "x"}},
                                        {{"name", "default"}, {"template", kPublished}}}}}
                                     .dump());
  ASSERT_TRUE(Load().ok()) << Load().status();
  EXPECT_EQ(Load()->default_system, "You are a helpful assistant.");
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
    EXPECT_EQ(chat->default_system, "One.\nTwo.");
  }
}

TEST_F(ChatTemplateTest, ReadsEscapesInConstants) {
  const auto chat = LoadJinja(
      absl::StrReplaceAll(kLaidOut, {{"Be brief.", R"(\"\u4f60\\\'\x41\U0001F600\t\d)"}}));
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->default_system, "\"\u4f60\\'A\U0001F600\t\\d");
  for (const char* bad : {R"(\u12)", R"(\ud800)", R"(\U00110000)"}) {
    EXPECT_FALSE(LoadJinja(absl::StrReplaceAll(kLaidOut, {{"Be brief.", bad}})).ok()) << bad;
  }
}

TEST_F(ChatTemplateTest, KnowsTemplatesWithoutADefaultSystemMessage) {
  std::string source = kPublished;
  const size_t begin = source.find("{% if loop.first"), end = source.find("{% endif %}", begin);
  source.erase(begin, end + 11 - begin);
  const auto chat = LoadJinja(source);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_FALSE(chat->default_system.has_value());
}

TEST_F(ChatTemplateTest, RefusesFilesThatAreNone) {
  for (const char* name : {"chat_template.json", "chat_template.jinja", "tokenizer_config.json"}) {
    const std::string path = dir_ + "/" + name;
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_EQ(ErrorReason(Load().status()), "CHECKPOINT_INVALID") << name;
    std::filesystem::remove(path);
    std::filesystem::create_symlink(name, path);  // to itself
    EXPECT_EQ(ErrorReason(Load().status()), "CHECKPOINT_INVALID") << name;
    std::filesystem::remove(path);
    Write(name, "{\"chat_template\": " + std::string(1 << 20, '['));
    EXPECT_EQ(ErrorReason(Load().status()), "CHECKPOINT_INVALID") << name;
    std::filesystem::remove(path);
  }
}

TEST_F(ChatTemplateTest, RecognisesChordNano) {
  const auto chat = LoadChatTemplate(std::string(CHORD_SOURCE_DIR) + "/models/chord-nano");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->default_system, "You are a helpful assistant.");
}

TEST_F(ChatTemplateTest, RecognisesOtherLayoutsOfTheSame) {
  const auto chat = LoadJinja(kLaidOut);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->default_system, "Be brief.");
}

TEST_F(ChatTemplateTest, RefusesTemplatesThatWriteSomethingElse) {
  const std::pair<std::string, std::string> edits[] = {
      {"<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"},
      {"<|im_start|>assistant\n", "<|im_start|>bot\n"},
      {"<|im_start|>", "[INST]"},
      {"{{ message['role'] }}\n", "{{ message['role'] }}: "},
      {"<|vision_start|><|image_pad|><|vision_end|>{% elif", "<image>{% elif"},
      {"<|im_end|>\n{% endif %}{% endfor %}", "<|im_end|>{% endif %}{% endfor %}"},
      {"{{ content['text'] }}", "{{ content['text'] | trim }}"},
      {"You are a helpful assistant.", "Today is {{ today }}."},
      {"add_generation_prompt", "true"},
      {"{% endfor %}{% if add", "{% endfor %"},
  };
  for (const auto& [from, to] : edits) {
    const auto chat = LoadJinja(absl::StrReplaceAll(kPublished, {{from, to}}));
    EXPECT_EQ(ErrorReason(chat.status()), "CHECKPOINT_INVALID") << to;
  }
}

TEST_F(ChatTemplateTest, SaysWhereItLookedWhenThereIsNone) {
  Write("tokenizer_config.json", "{}");
  const auto chat = Load();
  EXPECT_EQ(ErrorReason(chat.status()), "CHECKPOINT_INVALID");
  for (const char* name : {"chat_template.jinja", "chat_template.json", "tokenizer_config.json"}) {
    EXPECT_THAT(std::string(chat.status().message()), HasSubstr(name));
  }
}

TEST_F(ChatTemplateTest, RefusesFilesOfTheWrongShape) {
  for (const char* content : {"", "[", "[]", "{\"chat_template\": 7}", "{\"chat_template\": [3]}",
                              "{\"chat_template\": \"{{\"}", "{\"chat_template\": \"\"}"}) {
    Write("chat_template.json", content);
    EXPECT_EQ(ErrorReason(Load().status()), "CHECKPOINT_INVALID") << content;
  }
}

}  // namespace
}  // namespace chord::model
