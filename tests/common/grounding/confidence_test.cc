#include "common/grounding/confidence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::grounding {
namespace {

using ::testing::HasSubstr;

const double kNan = std::nan("");
const double kInf = std::numeric_limits<double>::infinity();

// An answer and the probabilities of its tokens.
struct Answer {
  std::string text;
  TokenRecord record;
  Answer& Add(absl::string_view token, double p, bool forced = false) {
    absl::StrAppend(&text, token);
    record.token_ends.push_back(static_cast<int64_t>(text.size()));
    record.log_probabilities.push_back(std::log(p));
    record.forced.push_back(forced);
    return *this;
  }
  Evidence Gather() const { return GatherEvidence(text, ParseAnswer(text), record); }
};

Answer TwoBoxes(bool forced) {
  Answer out;
  out.Add("[{\"bbox_2d\": [", 0.9, forced).Add("1", 0.5).Add("0", 0.5).Add(", 20, 3", 1, forced);
  out.Add("0", 0.25).Add(", ", 1, forced).Add("40", 1).Add("], \"label\": \"", 1, forced);
  out.Add("cup", 0.8).Add("\"}", 1, forced).Add(", ", 0.6).Add("{\"bbox_2d\": [", 1, forced);
  out.Add("5, 6, 70, 80", 0.5).Add("], \"label\": \"", 1, forced).Add("mug", 0.4);
  out.Add("\"}", 1, forced).Add("]", 0.75);
  return out;
}

TEST(EvidenceTest, ReadsCoordinatesLabelsAndTheListsEnd) {
  const Evidence evidence = TwoBoxes(false).Gather();
  ASSERT_TRUE(evidence.usable);
  ASSERT_EQ(evidence.boxes.size(), 2u);
  const BoxEvidence& cup = evidence.boxes[0];
  EXPECT_NEAR(cup[kCoordinates], std::log(0.5 * 0.5 * 0.25) / 4, 1e-9);
  EXPECT_NEAR(cup[kLeast], std::log(0.25), 1e-9);
  EXPECT_EQ(cup[kFollows], kBound);  // nothing is known: the model wrote it
  EXPECT_NEAR(cup[kLabel], std::log(0.9 * 0.8), 1e-9);
  EXPECT_NEAR(cup[kSide], std::log(20), 1e-9);
  const BoxEvidence& mug = evidence.boxes[1];
  EXPECT_NEAR(mug[kCoordinates], std::log(0.5) / 4, 1e-9);
  EXPECT_NEAR(mug[kFollows], std::log(0.6 / 0.4), 1e-9);  // off the comma between them
  EXPECT_NEAR(mug[kLabel], std::log(0.4), 1e-9);
  EXPECT_NEAR(evidence.ends, std::log(0.75 / 0.25), 1e-9);
  // Geometric mean of one token, times the comma.
  EXPECT_NEAR(evidence.raw_boxes[1], 0.5 * 0.6, 1e-9);
}

TEST(EvidenceTest, LeavesForcedTokensOut) {
  Answer answer = TwoBoxes(true);
  const Evidence evidence = answer.Gather();
  // Four tokens of the first box were the model's own: 1, 0, 0, 40.
  EXPECT_NEAR(evidence.raw_boxes[0], std::pow(0.5 * 0.5 * 0.25, 0.25), 1e-9);
  EXPECT_NEAR(evidence.boxes[0][kLabel], std::log(0.8), 1e-9);
}

TEST(EvidenceTest, PrefersTheChoicesThatTheGrammarRecorded) {
  Answer answer = TwoBoxes(false);
  const auto second = static_cast<int64_t>(answer.text.find("\"}, {") + 2);
  const auto end = static_cast<int64_t>(answer.text.size() - 1);
  answer.record.choices = {{1, std::log(0.1), std::log(0.7)},
                           {second, std::log(0.3), std::log(0.3)},
                           {end, std::log(0.8), std::log(0.1)}};
  const Evidence evidence = answer.Gather();
  EXPECT_NEAR(evidence.boxes[0][kFollows], std::log(7), 1e-9);
  EXPECT_NEAR(evidence.boxes[1][kFollows], 0, 1e-9);
  EXPECT_NEAR(evidence.raw_boxes[1], 0.5 * 0.5, 1e-9);
  EXPECT_NEAR(evidence.ends, std::log(8), 1e-9);
}

TEST(EvidenceTest, TakesTheFirstBoxsOddsFromTheEmptyLists) {
  Answer answer = TwoBoxes(false);
  answer.record.log_probability_empty = std::log(0.2);
  EXPECT_NEAR(answer.Gather().boxes[0][kFollows], std::log(4), 1e-9);
}

TEST(EvidenceTest, KnowsAnAbsenceFromItsBestSource) {
  Answer answer;
  answer.Add("[]", 0.64);
  Evidence evidence = answer.Gather();
  EXPECT_NEAR(evidence.raw_absent, 0.64, 1e-9);  // the words of an empty list
  answer.record.log_probability_empty = std::log(0.9);
  evidence = answer.Gather();
  EXPECT_NEAR(evidence.raw_absent, 0.9, 1e-9);
  EXPECT_NEAR(evidence.absent[kEmpty], std::log(9), 1e-9);
  EXPECT_NEAR(evidence.absent[kWords], std::log(0.64), 1e-9);
  answer.record.choices = {{0, std::log(0.6), std::log(0.2)}};
  EXPECT_NEAR(answer.Gather().raw_absent, 0.75, 1e-9);
}

TEST(EvidenceTest, TakesAListThatWasClosedForTheModelForNoAbsence) {
  Answer answer;
  answer.Add("[", 0.9);
  answer.text += "]";
  answer.record.cut = true;
  const Evidence evidence = answer.Gather();
  EXPECT_TRUE(evidence.usable);
  EXPECT_EQ(evidence.raw_absent, 0);
  EXPECT_EQ(evidence.absent[kEmpty], -kBound);
}

TEST(EvidenceTest, TakesWordsWithoutAListForNoAbsence) {
  Answer answer;
  answer.Add("I cannot see it.", 0.9);
  EXPECT_EQ(answer.Gather().raw_absent, 0);
}

TEST(EvidenceTest, StaysFiniteWhateverTheWorkerSent) {
  const double numbers[] = {0, -1, 1, 1e-7, kNan, kInf, -kInf, -1e300, 1e300};
  for (const std::string text : {"[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"a\"}]", "[]", "", "no",
                                 "[{\"bbox_2d\": [1e308, -1e308, 1e308, 4]}"}) {
    for (const double p : numbers) {
      for (const int64_t end :
           {int64_t{-1}, int64_t{0}, int64_t{1}, int64_t(text.size()),
            std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}) {
        TokenRecord record;
        record.token_ends = {end, end};
        record.log_probabilities = {p, 0};
        record.forced = {true, false};
        record.choices = {{end, p, p}, {0, p, 0}, {0, 0, p}, {end, -1, p}};
        record.log_probability_empty = p;
        const ParsedAnswer parsed = ParseAnswer(text);
        const Evidence evidence = GatherEvidence(text, parsed, record);
        ASSERT_EQ(evidence.boxes.size(), parsed.objects.size());
        ASSERT_EQ(evidence.raw_boxes.size(), parsed.objects.size());
        for (const BoxEvidence& box : evidence.boxes) {
          for (const double v : box) ASSERT_LE(std::abs(v), kBound);
        }
        for (const double v : evidence.absent) ASSERT_LE(std::abs(v), kBound);
        ASSERT_LE(std::abs(evidence.ends), kBound);
        for (const double v : evidence.raw_boxes) ASSERT_TRUE(v >= 0 && v <= 1) << v;
        ASSERT_TRUE(evidence.raw_absent >= 0 && evidence.raw_absent <= 1) << evidence.raw_absent;
      }
    }
  }
}

TEST(EvidenceTest, IsUnusableWhenTheNumbersDoNotFitTheText) {
  const auto spoil = [](auto change) {
    Answer answer = TwoBoxes(false);
    change(answer.record);
    return answer.Gather();
  };
  EXPECT_TRUE(spoil([](TokenRecord&) {}).usable);
  EXPECT_TRUE(spoil([](TokenRecord& r) { r.forced.clear(); }).usable);
  for (const Evidence& evidence : {spoil([](TokenRecord& r) { r.token_ends.pop_back(); }),
                                   spoil([](TokenRecord& r) { r.forced.pop_back(); }),
                                   spoil([](TokenRecord& r) { r.token_ends[3] = 0; }),
                                   spoil([](TokenRecord& r) { r.token_ends.back() += 1; }),
                                   spoil([](TokenRecord& r) { r.log_probabilities[2] = kNan; }),
                                   spoil([](TokenRecord& r) { r.log_probabilities[2] = 0.1; }),
                                   spoil([](TokenRecord& r) { r = TokenRecord{}; })}) {
    EXPECT_FALSE(evidence.usable);
    EXPECT_EQ(evidence.raw_boxes, (std::vector<double>{0, 0}));
  }
}

TEST(AnswerEvidenceTest, SumsItsBoxes) {
  const AnswerEvidence evidence = MakeAnswerEvidence({0.5, 0.8}, 2, true);
  EXPECT_NEAR(evidence[kWeakest], std::log(0.5), 1e-9);
  EXPECT_NEAR(evidence[kAll], std::log(0.4), 1e-9);
  EXPECT_EQ(evidence[kEnds], 2);
  EXPECT_EQ(evidence[kCut], 1);
  EXPECT_GE(MakeAnswerEvidence(std::vector<double>(1000, 0.0), kNan, false)[kAll], -kBound);
}

TEST(MonotoneMapTest, InterpolatesBetweenKnotsAndIsFlatBeyond) {
  const MonotoneMap map{1, {2, 0}, {{0, 0.2, 5}, {10, 0.6, 5}, {20, 0.6, 5}}};
  const std::pair<double, double> cases[] = {{-100, 0.2}, {-0.5, 0.2}, {2, 0.4},
                                             {4.5, 0.6},  {7, 0.6},    {100, 0.6}};
  for (const auto& [x, p] : cases) EXPECT_NEAR(Probability(map, {x, 7}), p, 1e-9) << x;
  EXPECT_EQ(Probability(MonotoneMap{}, {1, 2}), 0);
}

ConfidenceMap SomeMap() {
  ConfidenceMap out;
  out.model_fingerprint = std::string(64, 'a');
  out.box = {0.5, {1, 2, 3, 4, 5}, {{-1, 0.1, 40}, {2.5, 0.123456789, 50}}};
  out.absent = {0, {1, 0}, {{0, 0.5, 0}}};
  out.answer = {-1, {1, 2, 3, 4}, {{0, 0, 1}, {1, 1, 1}}};
  out.fitted_on.data = "scenes.json";
  out.fitted_on.sha256 = std::string(64, '0');
  out.fitted_on.prompts = 12;
  return out;
}

TEST(ConfidenceFileTest, ComesBackAsItWasWritten) {
  const std::string text = ToJson(SomeMap());
  const auto map = ParseConfidenceMap(text);
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(map->box.weights, SomeMap().box.weights);
  EXPECT_NEAR(map->box.knots[1].probability, 0.123457, 1e-12);  // six digits
  EXPECT_EQ(map->fitted_on.prompts, 12);
  EXPECT_EQ(ToJson(*map), text);
}

TEST(ConfidenceFileTest, RefusesWhatIsNotAMap) {
  const std::string good = ToJson(SomeMap());
  const std::pair<std::vector<std::pair<std::string, std::string>>, const char*> cases[] = {
      {{{"\"version\": 1", "\"version\": 2"}}, "another version"},
      {{{"\"evidence_version\": 1", "\"evidence_version\": 99"}}, "another version"},
      {{{"\"version\": 1,", ""}}, "lacks \"version\""},
      {{{"\"version\": 1,", "\"version\": 1, \"more\": 1,"}}, "not known"},
      {{{"\"version\": 1,", "\"version\": 1, \"version\": 1,"}}, "not valid"},
      {{{std::string(64, 'a'), std::string(64, 'A')}}, "hex"},
      {{{"\"coordinates\"", "\"coordinate\""}}, "coordinates"},
      {{{"\"coordinates\": 1.0", "\"coordinates\": 1e7"}}, "out of range"},
      {{{"\"coordinates\": 1.0", "\"coordinates\": \"1\""}}, "number"},
      {{{"-1.0,\n    0.1", "-1.0,\n    0.9"}}, "rise"},
      {{{"-1.0,\n    0.1", "3.0,\n    0.1"}}, "rise"},
      {{{"-1.0,\n    0.1", "-1.0,\n    1.1"}}, "range"},
      {{{"\"questions\": 12", "\"questions\": -1"}}, "range"},
      {{{"\"questions\": 12", "\"questions\": 1.5"}}, "integer"},
      {{{"}\n}\n", "}\n"}}, "not valid"},
  };
  for (const auto& [change, why] : cases) {
    const std::string bad = absl::StrReplaceAll(good, change);
    ASSERT_NE(bad, good) << why;
    const auto map = ParseConfidenceMap(bad);
    ASSERT_FALSE(map.ok()) << change[0].second;
    EXPECT_THAT(std::string(map.status().message()), HasSubstr(why));
    EXPECT_THAT(map.status(), HasReason(Reason::kCheckpointInvalid));
  }
  for (const char* text : {"", "[]", "{}", "null", "{\"version\": NaN}"}) {
    EXPECT_FALSE(ParseConfidenceMap(text).ok()) << text;
  }
  for (size_t cut = 0; cut + 2 < good.size(); cut += 7) {
    EXPECT_FALSE(ParseConfidenceMap(good.substr(0, cut)).ok());
  }
}

TEST(ConfidenceFileTest, BelongsToOneModel) {
  const std::string dir = ::testing::TempDir() + "/confidence_file_" + std::to_string(getpid());
  std::filesystem::create_directories(dir);
  const std::string file = dir + "/" + kConfidenceFile;
  std::filesystem::remove(file);
  const auto none = LoadConfidenceMap(dir, std::string(64, 'a'));
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
  std::ofstream(file) << ToJson(SomeMap());
  const auto own = LoadConfidenceMap(dir, std::string(64, 'a'));
  ASSERT_TRUE(own.ok());
  EXPECT_TRUE(own->has_value());
  EXPECT_THAT(std::string(LoadConfidenceMap(dir, std::string(64, 'b')).status().message()),
              HasSubstr("another model"));
  std::ofstream(file) << std::string(kMaxConfidenceFileBytes + 1, ' ');
  EXPECT_FALSE(LoadConfidenceMap(dir, std::string(64, 'a')).ok());
}

}  // namespace
}  // namespace chord::grounding
