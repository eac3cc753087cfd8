#include "common/model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/model/pretokenize.h"
#include "tests/support/has_reason.h"

namespace chord::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string NanoFile() {
  return std::string(CHORD_SOURCE_DIR) + "/models/chord-nano/tokenizer.json";
}

std::string Shared(const std::string& name) {
  const char* root = std::getenv("CHORD_SHARED");
  return (root != nullptr ? std::string(root) : std::string(CHORD_SOURCE_DIR) + "/../shared") +
         "/" + name;
}

const Tokenizer& Nano() {
  static const Tokenizer* const kNano = new Tokenizer(*Tokenizer::Load(NanoFile()));
  return *kNano;
}

json NanoJson() {
  std::ifstream in(NanoFile());
  return json::parse(in);
}

absl::Status ParseChanged(const std::function<void(json&)>& change) {
  json file = NanoJson();
  change(file);
  return Tokenizer::Parse(file.dump()).status();
}

TEST(TokenizerTest, EncodesEveryGoldenRowOfTheQwenFile) {
  const std::string folder = Shared("data/qwen-tokenizer");
  if (!std::filesystem::exists(folder + "/golden.jsonl")) GTEST_SKIP() << "no " << folder;
  const auto tokenizer = Tokenizer::Load(folder + "/tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::ifstream in(folder + "/golden.jsonl");
  int rows = 0;
  for (std::string line; std::getline(in, line); ++rows) {
    const json row = json::parse(line);
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    ASSERT_EQ(tokenizer->EncodeWithAddedTokens(row["text"].get<std::string>()), ids) << line;
    ASSERT_EQ(tokenizer->Decode(ids, /*skip_special=*/false), row["decoded"].get<std::string>());
  }
  EXPECT_GE(rows, 1000);
}

TEST(TokenizerTest, EncodesTheExamplesOfTheSpecification) {
  const std::string file = Shared("data/qwen-tokenizer/tokenizer.json");
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no " << file;
  const auto t = Tokenizer::Load(file);
  ASSERT_TRUE(t.ok());
  EXPECT_THAT(t->EncodeText("3.14159"), ElementsAre(18, 13, 16, 19, 16, 20, 24));
  EXPECT_THAT(t->EncodeText("<|im_end|"), ElementsAre(27, 91, 318, 6213, 91));
  EXPECT_THAT(t->EncodeText("'\u017F"), ElementsAre(6, 144815));
  EXPECT_THAT(t->EncodeText("\u0301a"), ElementsAre(53839, 64));
  EXPECT_THAT(t->EncodeText("a\u0301\u0301b"), ElementsAre(1953, 53839, 65));
  EXPECT_THAT(t->EncodeText("\n\n"), ElementsAre(271));
}

TEST(TokenizerTest, NeverFindsAddedTokensInOrdinaryText) {
  for (const char* text :
       {"<|im_end|>", "<|image_pad|>", "a<|vision_start|><|im_start|>system\n"}) {
    for (const int32_t id : Nano().EncodeText(text)) EXPECT_FALSE(Nano().IsAdded(id)) << text;
    EXPECT_EQ(Nano().Decode(Nano().EncodeText(text), false), text);
  }
  const std::string file = Shared("data/qwen-tokenizer/tokenizer.json");
  if (!std::filesystem::exists(file)) return;
  const auto qwen = Tokenizer::Load(file);
  ASSERT_TRUE(qwen.ok());
  for (const int32_t id : qwen->EncodeText("<tool_call></think>")) EXPECT_FALSE(qwen->IsAdded(id));
  EXPECT_THAT(qwen->EncodeWithAddedTokens("<tool_call>"), ElementsAre(151657));
  EXPECT_FALSE(qwen->IsSpecial(151657));
  EXPECT_EQ(qwen->Decode({{151657, 151645}}, /*skip_special=*/true), "<tool_call>");
}

TEST(TokenizerTest, FindsAddedTokensLeftmostLongest) {
  json file = NanoJson();
  for (const char* content : {"<x>", "<x><y>", "cafe\u0301"}) {
    json token = file["added_tokens"][0];
    token["id"] = 5000 + static_cast<int>(file["added_tokens"].size());
    token["content"] = content;
    token["special"] = false;
    token["normalized"] = content[0] == 'c';
    file["added_tokens"].push_back(token);
  }
  const auto t = Tokenizer::Parse(file.dump());
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_THAT(t->EncodeWithAddedTokens("<x><y><x>"), ElementsAre(4097, 4096));
  // A token marked as normalized is found in the text's normal form.
  EXPECT_THAT(t->EncodeWithAddedTokens("caf\u00E9<|im_end|>"), ElementsAre(4098, 4084));
  EXPECT_EQ(t->size(), 4099);
  EXPECT_EQ(t->TokenBytes(4500), "");
}

TEST(TokenizerTest, ReadsMergesWrittenAsLines) {
  json file = NanoJson();
  for (json& merge : file["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const auto t = Tokenizer::Parse(file.dump());
  ASSERT_TRUE(t.ok()) << t.status();
  const std::string text = "find the white vase, 找到白色花瓶";
  EXPECT_EQ(t->EncodeText(text), Nano().EncodeText(text));
}

TEST(TokenizerTest, MergesByRankThenFromTheLeft) {
  json file = NanoJson();
  file["added_tokens"] = json::array();
  file["model"]["vocab"] = json::object();
  int next = 0;
  const auto add = [&](const std::string& token) { file["model"]["vocab"][token] = next++; };
  const json original = NanoJson();  // the 256 characters of bytes
  for (const auto& [token, id] : original["model"]["vocab"].items()) {
    if (id < 256) add(token);
  }
  ASSERT_EQ(next, 256);
  add("aa");
  add("ba");
  add("aab");
  file["model"]["merges"] = {"b a", "a a", "aa b"};
  const auto t = Tokenizer::Parse(file.dump());
  ASSERT_TRUE(t.ok()) << t.status();
  const auto id = [&](const char* token) { return file["model"]["vocab"][token].get<int>(); };
  EXPECT_THAT(t->EncodeText("aaba"), ElementsAre(id("aa"), id("ba")));
  EXPECT_THAT(t->EncodeText("aaa"), ElementsAre(id("aa"), id("a")));
  EXPECT_THAT(t->EncodeText("aab"), ElementsAre(id("aab")));
}

TEST(TokenizerTest, ReplacesIllFormedInput) {
  EXPECT_EQ(Nano().EncodeText("a\xFF"), Nano().EncodeText("a\uFFFD"));
  EXPECT_EQ(Nano().EncodeWithAddedTokens("\xED\xA0\x80"), Nano().EncodeText("\uFFFD\uFFFD\uFFFD"));
}

TEST(TokenizerTest, IdsOutsideTheVocabularyDecodeToNothing) {
  EXPECT_EQ(Nano().Decode({{-1, 4096, 151643, INT32_MAX, INT32_MIN}}, false), "");
  EXPECT_FALSE(Nano().IsSpecial(-1));
  EXPECT_EQ(Nano().AddedTokenId("<|im_start|>"), 4083);
  EXPECT_EQ(Nano().AddedTokenId("<|nothing|>"), -1);
  EXPECT_EQ(Nano().size(), 4096);
}

TEST(TokenizerTest, EncodesAVeryLongWord) {
  const std::string word(1 << 20, 'a');
  EXPECT_EQ(Nano().Decode(Nano().EncodeText(word), false), word);
}

TEST(StreamDecoderTest, HoldsAnIncompleteCharacterBack) {
  const std::string text = "花瓶 😀e";
  std::vector<int32_t> bytes;  // one id per byte, so that characters arrive in parts
  for (const char c : text) {
    for (int32_t id = 0; id < 512; ++id) {
      if (Nano().TokenBytes(id) == absl::string_view(&c, 1)) {
        bytes.push_back(id);
        break;
      }
    }
  }
  ASSERT_EQ(bytes.size(), text.size());
  StreamDecoder decoder(&Nano());
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    out += decoder.Push(bytes[i]);
    EXPECT_EQ(out.find("\uFFFD"), std::string::npos) << i;
    EXPECT_EQ(text.compare(0, out.size(), out), 0) << i;
  }
  EXPECT_EQ(out + decoder.Finish(), text);

  StreamDecoder cut(&Nano());
  EXPECT_EQ(cut.Push(bytes[0]), "");
  EXPECT_EQ(cut.Push(bytes[1]), "");
  EXPECT_EQ(cut.Push(bytes.back()), "\uFFFDe");
  EXPECT_EQ(cut.Push(bytes[0]), "");
  EXPECT_EQ(cut.Finish(), "\uFFFD");
  EXPECT_EQ(cut.Finish(), "");
}

TEST(StreamDecoderTest, LeavesSpecialTokensOutUnlessAsked) {
  EXPECT_EQ(StreamDecoder(&Nano()).Push(4084), "");
  EXPECT_EQ(StreamDecoder(&Nano(), /*skip_special=*/false).Push(4084), "<|im_end|>");
  // Without its markers an answer in Qwen2-VL's form would have no boxes.
  for (const char* marker :
       {"<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"}) {
    EXPECT_EQ(StreamDecoder(&Nano()).Push(Nano().AddedTokenId(marker)), marker);
  }
  EXPECT_EQ(StreamDecoder(&Nano()).Push(Nano().AddedTokenId("<|image_pad|>")), "");
}

TEST(SplitTest, FollowsTheOrderOfTheAlternatives) {
  EXPECT_THAT(SplitIntoPieces("I'm WE'VE don't"),
              ElementsAre("I", "'m", " WE", "'VE", " don", "'t"));
  EXPECT_THAT(SplitIntoPieces("ab12"), ElementsAre("ab", "1", "2"));
  EXPECT_THAT(SplitIntoPieces(" a  b   "), ElementsAre(" a", " ", " b", "   "));
  EXPECT_THAT(SplitIntoPieces("a \n \n  b"), ElementsAre("a", " \n \n", " ", " b"));
  EXPECT_THAT(SplitIntoPieces("x !?\r\n\ny"), ElementsAre("x", " !?\r\n\n", "y"));
  EXPECT_THAT(SplitIntoPieces("\t!a"), ElementsAre("\t", "!a"));
  EXPECT_THAT(SplitIntoPieces("  7"), ElementsAre(" ", " ", "7"));
  EXPECT_THAT(SplitIntoPieces("(word_x"), ElementsAre("(word", "_x"));
  EXPECT_THAT(SplitIntoPieces("\u3000\u3000a"), ElementsAre("\u3000", "\u3000a"));
  EXPECT_THAT(SplitIntoPieces(""), ElementsAre());
}

// The nano tokenizer with its first added token made to `flags`, and this `normalizer`.
Tokenizer WithFlags(const json& flags, const json& normalizer = {{"type", "NFC"}}) {
  json file = NanoJson();
  file["added_tokens"][0].update(flags);
  file["normalizer"] = normalizer;
  auto tokenizer = Tokenizer::Parse(file.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(TokenizerTest, AddedTokensTakeWhiteSpaceAlongWhenTheyAreTold) {
  const Tokenizer plain = WithFlags(json::object());
  const int32_t id = plain.AddedTokenId("<|endoftext|>");
  const auto ids = [&](const json& flags, absl::string_view text) {
    return WithFlags(flags).EncodeWithAddedTokens(text);
  };
  const auto a = plain.EncodeText("a"), b = plain.EncodeText("b"), gap = plain.EncodeText("a \t");
  ASSERT_EQ(a.size(), 1u);
  const std::string text = "a \t<|endoftext|>\u3000\nb";
  EXPECT_THAT(ids({{"lstrip", true}, {"rstrip", true}}, text), ElementsAre(a[0], id, b[0]));
  auto want = gap;
  want.insert(want.end(), {id, b[0]});
  EXPECT_EQ(ids({{"rstrip", true}}, text), want);
  // Blanks that one token took are not there for the next.
  EXPECT_THAT(ids({{"lstrip", true}, {"rstrip", true}}, "<|endoftext|>  <|endoftext|>"),
              ElementsAre(id, id));
  EXPECT_THAT(ids({{"rstrip", true}}, "<|endoftext|> "), ElementsAre(id));
}

TEST(TokenizerTest, AddedTokensOfWholeWordsAreNotFoundInsideOnes) {
  const Tokenizer t = WithFlags({{"single_word", true}});
  const int32_t id = t.AddedTokenId("<|endoftext|>");
  for (const char* beside : {"", " ", ".", "\n", "\u2603"}) {
    const auto ids = t.EncodeWithAddedTokens(absl::StrCat(beside, "<|endoftext|>", beside));
    EXPECT_EQ(std::count(ids.begin(), ids.end(), id), 1) << beside;
  }
  for (const char* beside : {"a", "7", "_", "\u4f60", "\u0301", "\u24b6"}) {
    const std::string before = absl::StrCat(beside, "<|endoftext|>");
    const std::string after = absl::StrCat("<|endoftext|>", beside);
    EXPECT_EQ(t.EncodeWithAddedTokens(before), t.EncodeText(before));
    EXPECT_EQ(t.EncodeWithAddedTokens(after), t.EncodeText(after));
  }
}

TEST(TokenizerTest, NumbersAddedTokensWithoutGapsAsTransformersDoes) {
  json file = NanoJson();
  file["added_tokens"].push_back({{"id", 4200}, {"content", "<sw>"}});
  file["added_tokens"].push_back({{"id", 4150}, {"content", "<tt>"}});
  const auto t = Tokenizer::Parse(file.dump());
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_EQ(t->AddedTokenId("<|video_pad|>"), 4095);
  EXPECT_EQ(t->AddedTokenId("<tt>"), 4096);
  EXPECT_EQ(t->AddedTokenId("<sw>"), 4097);
  EXPECT_EQ(t->size(), 4098);
}

TEST(TokenizerTest, NormalizesOnlyWhenTold) {
  const std::string apart = "e\u0301", together = "\u00e9";
  for (const json& none : {json(), json{{"type", "Sequence"}, {"normalizers", json::array()}}}) {
    const Tokenizer t = WithFlags(json::object(), none);
    EXPECT_NE(t.EncodeText(apart), t.EncodeText(together));
    EXPECT_EQ(t.Decode(t.EncodeText(apart), false), apart);
  }
  EXPECT_EQ(WithFlags(json::object()).EncodeText(apart),
            WithFlags(json::object()).EncodeText(together));
}

TEST(TokenizerFileTest, RefusesOtherPipelines) {
  const std::vector<std::pair<const char*, std::function<void(json&)>>> changes = {
      {"normalizer", [](json& f) { f["normalizer"]["type"] = "NFKC"; }},
      {"pre_tokenizer",
       [](json& f) { f["pre_tokenizer"] = f["pre_tokenizer"]["pretokenizers"][1]; }},
      {"pattern",
       [](json& f) {
         f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] =
             R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
       }},
      {"isolate", [](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }},
      {"isolate", [](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["invert"] = true; }},
      {"space", [](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }},
      {"split again", [](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = true; }},
      {"decoder", [](json& f) { f["decoder"]["type"] = "WordPiece"; }},
      {"post_processor",
       [](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"}};
       }},
      {"BPE", [](json& f) { f["model"]["type"] = "Unigram"; }},
      {"byte_fallback", [](json& f) { f["model"]["byte_fallback"] = true; }},
      {"ignore_merges", [](json& f) { f["model"]["ignore_merges"] = true; }},
      {"dropout", [](json& f) { f["model"]["dropout"] = 0.1; }},
      {"end_of_word_suffix", [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }},
  };
  for (const auto& [word, change] : changes) {
    const absl::Status status = ParseChanged(change);
    EXPECT_THAT(status, HasReason(Reason::kCheckpointInvalid)) << word;
    EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }
}

TEST(TokenizerFileTest, AcceptsEquivalentSpellings) {
  EXPECT_TRUE(
      ParseChanged([](json& f) {
        f["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
        f["decoder"] = {{"type", "Sequence"}, {"decoders", {{{"type", "ByteLevel"}}}}};
        f["post_processor"] = {{"type", "ByteLevel"}, {"trim_offsets", false}};
        f["model"]["dropout"] = 0.0;
        f["model"]["end_of_word_suffix"] = "";
        f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] =
            R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
      }).ok());
}

// What transformers 5 writes when it saves a tokenizer again, and other ways to add no token.
TEST(TokenizerFileTest, TakesPostProcessorsThatAddNothing) {
  const json identity = {{"type", "TemplateProcessing"},
                         {"single", {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
                         {"pair",
                          {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                           {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
                         {"special_tokens", json::object()}};
  const json byte_level = {{"type", "ByteLevel"}, {"trim_offsets", true}};
  const auto sequence = [](const json& list) {
    return json{{"type", "Sequence"}, {"processors", list}};
  };
  for (const json& post :
       {json(), identity, byte_level, sequence(json::array()), sequence({byte_level, identity}),
        sequence({sequence(json::array({identity})), byte_level})}) {
    const absl::Status status = ParseChanged([&](json& f) { f["post_processor"] = post; });
    EXPECT_TRUE(status.ok()) << post << status;
  }
}

TEST(TokenizerFileTest, NamesThePostProcessorThatAddsTokens) {
  const json adds = json::parse(R"({"type": "TemplateProcessing", "single":
      [{"SpecialToken": {"id": "<|b|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]})");
  const json twice = json::parse(R"({"type": "TemplateProcessing", "single":
      [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]})");
  const std::pair<json, std::string> cases[] = {
      {adds, "adds the token \"<|b|>\""},
      {{{"type", "Sequence"}, {"processors", json::array({adds})}}, "adds the token \"<|b|>\""},
      {twice, "does not keep the text once"},
      {{{"type", "BertProcessing"}}, "\"BertProcessing\" adds tokens"},
      {{{"type", "RobertaProcessing"}}, "\"RobertaProcessing\" adds tokens"},
  };
  for (const auto& [post, message] : cases) {
    const absl::Status status = ParseChanged([&](json& f) { f["post_processor"] = post; });
    EXPECT_THAT(status, HasReason(Reason::kCheckpointInvalid)) << post;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(message));
  }
  json deep = adds;
  for (int i = 0; i < 20; ++i) deep = {{"type", "Sequence"}, {"processors", json::array({deep})}};
  EXPECT_FALSE(ParseChanged([&](json& f) { f["post_processor"] = deep; }).ok());
}

TEST(TokenizerFileTest, RefusesContradictionsAndWrongTypes) {
  const std::vector<std::function<void(json&)>> changes = {
      [](json& f) { f["model"]["vocab"]["zzzz"] = -1; },
      [](json& f) { f["model"]["vocab"]["zzzz"] = 5; },
      [](json& f) { f["model"]["vocab"]["zzzz"] = int64_t{1} << 40; },
      [](json& f) { f["model"]["vocab"]["zzzz"] = 1.5; },
      [](json& f) { f["model"]["vocab"]["zzzz"] = "1"; },
      [](json& f) { f["model"]["vocab"]["zzzz"] = json::array(); },
      [](json& f) { f["model"]["vocab"] = json::array(); },
      [](json& f) { f["model"]["vocab"].erase("\u0120"); },
      [](json& f) { f["model"]["merges"][3] = "one two three"; },
      [](json& f) { f["model"]["merges"][3] = {"a"}; },
      [](json& f) {
        f["model"]["merges"][3] = {"a", "b", "c"};
      },
      [](json& f) {
        f["model"]["merges"][3] = {"a", 1};
      },
      [](json& f) {
        f["model"]["merges"][3] = {"a", {"b"}};
      },
      [](json& f) {
        f["model"]["merges"][3] = {"zzzz", "b"};
      },
      [](json& f) { f["model"]["merges"][3] = 7; },
      [](json& f) { f["model"]["merges"] = json::object(); },
      [](json& f) { f["model"].erase("merges"); },
      [](json& f) { f["model"] = "BPE"; },
      [](json& f) { f.erase("model"); },
      [](json& f) { f["added_tokens"] = 3; },
      [](json& f) { f["added_tokens"][0] = 3; },
      [](json& f) { f["added_tokens"][0]["id"] = "4082"; },
      [](json& f) { f["added_tokens"][0]["id"] = 4083; },
      [](json& f) { f["added_tokens"][0]["id"] = 17; },
      [](json& f) { f["added_tokens"][0]["id"] = -4; },
      [](json& f) { f["added_tokens"][0]["id"] = ~uint64_t{0}; },
      [](json& f) { f["added_tokens"][0]["id"] = int64_t{1} << 31; },
      [](json& f) { f["added_tokens"][0]["content"] = ""; },
      [](json& f) { f["added_tokens"][0]["content"] = "<|im_end|>"; },
      [](json& f) { f["added_tokens"][0]["content"] = "a"; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_THAT(ParseChanged(changes[i]), HasReason(Reason::kCheckpointInvalid)) << i;
  }
}

TEST(TokenizerFileTest, RefusesDuplicateKeysAndNesting) {
  const std::string file = NanoJson().dump();
  const auto parse = [](std::string text) { return ErrorReason(Tokenizer::Parse(text).status()); };
  const size_t vocab = file.find("\"vocab\":{") + 9;
  EXPECT_EQ(parse(std::string(file).insert(vocab, "\"a\":3,")), "CHECKPOINT_INVALID");
  const size_t model = file.find("\"model\":{") + 9;
  EXPECT_EQ(parse(std::string(file).insert(model, "\"vocab\":{},")), "CHECKPOINT_INVALID");
  EXPECT_EQ(parse(std::string(file).insert(1, "\"x\":" + std::string(100000, '[') + ",")),
            "CHECKPOINT_INVALID");
  EXPECT_EQ(parse(std::string(1 << 20, '[')), "CHECKPOINT_INVALID");
  EXPECT_EQ(parse(""), "CHECKPOINT_INVALID");
  EXPECT_EQ(parse("[]"), "CHECKPOINT_INVALID");
  EXPECT_EQ(parse("null"), "CHECKPOINT_INVALID");
}

TEST(TokenizerFileTest, RefusesTheFileCutAnywhere) {
  const std::string file = NanoJson().dump();
  for (size_t n = 0; n < file.size(); n += 1 + file.size() / 61) {
    EXPECT_THAT(Tokenizer::Parse(absl::string_view(file).substr(0, n)).status(),
                HasReason(Reason::kCheckpointInvalid));
  }
}

TEST(TokenizerFileTest, RefusesWhatStandsBehindANul) {
  const std::string file = NanoJson().dump() + std::string("\0{}", 3);
  EXPECT_THAT(Tokenizer::Parse(file).status(), HasReason(Reason::kCheckpointInvalid));
}

TEST(TokenizerFileTest, NamesTheFileThatCannotBeRead) {
  const auto missing = Tokenizer::Load("/nonexistent/tokenizer.json");
  EXPECT_THAT(missing.status(), HasReason(Reason::kCheckpointInvalid));
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/nonexistent/tokenizer.json"));
  EXPECT_THAT(Tokenizer::Load("/").status(), HasReason(Reason::kCheckpointInvalid));
  const std::string pipe =
      ::testing::TempDir() + "/tokenizer_pipe_" + std::to_string(getpid()) + ".json";
  std::filesystem::remove(pipe);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(Tokenizer::Load(pipe).status(), HasReason(Reason::kCheckpointInvalid));
  std::filesystem::remove(pipe);
}

}  // namespace
}  // namespace chord::model
