#include "common/obs/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"

namespace chord::obs {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::Not;

// A new series must be added here too, where a reviewer sees it.
const std::vector<std::string> kCommon = {"chord_build_info",
                                          "chord_cancelled_total",
                                          "chord_deadline_exceeded_total",
                                          "chord_inflight_requests",
                                          "chord_log_dropped_total",
                                          "chord_log_lines_total",
                                          "chord_model_info",
                                          "chord_ready",
                                          "chord_rejected_total",
                                          "chord_request_seconds",
                                          "chord_requests_total",
                                          "chord_stage_seconds",
                                          "process_cpu_seconds_total",
                                          "process_open_fds",
                                          "process_resident_memory_bytes",
                                          "process_start_time_seconds",
                                          "process_threads",
                                          "process_virtual_memory_bytes"};
const std::vector<std::string> kGateway = {"chord_answer_boxes",
                                           "chord_auth_total",
                                           "chord_certificate_expires_timestamp_seconds",
                                           "chord_certificate_reloads_total",
                                           "chord_tls_handshake_failures_total",
                                           "chord_box_confidence",
                                           "chord_http_responses_total",
                                           "chord_image_bytes_total",
                                           "chord_image_store_bytes",
                                           "chord_image_store_images",
                                           "chord_image_store_total",
                                           "chord_image_cache_requests_total",
                                           "chord_kv_usage_ratio",
                                           "chord_requests_running",
                                           "chord_requests_waiting",
                                           "chord_retries_total",
                                           "chord_session_total",
                                           "chord_sessions",
                                           "chord_workers"};
const std::vector<std::string> kWorker = {"chord_embedding_bytes_total", "chord_model_state",
                                          "chord_queue_depth", "chord_queue_oldest_seconds"};
const std::vector<std::string> kSupervisor = {"chord_build_info", "chord_process_restarts_total",
                                              "chord_process_up"};
const std::vector<std::string> kVision = {"chord_encode_batch_images", "chord_image_patches"};
const std::vector<std::string> kLanguage = {"chord_answer_tokens",
                                            "chord_decode_batch_sequences",
                                            "chord_first_token_seconds",
                                            "chord_inflight_tokens",
                                            "chord_image_cache_bytes",
                                            "chord_image_cache_images",
                                            "chord_kv_bytes",
                                            "chord_image_cache_requests_total",
                                            "chord_prompt_tokens",
                                            "chord_tickets",
                                            "chord_tokens_total"};

std::vector<std::string> Sorted(std::initializer_list<std::vector<std::string>> lists) {
  std::set<std::string> all;
  for (const auto& list : lists) all.insert(list.begin(), list.end());
  return {all.begin(), all.end()};
}

TEST(MetricsTest, ExportsThePinnedSeries) {
  EXPECT_THAT(Metrics(Role::kGateway, "1").FamilyNames(),
              ElementsAreArray(Sorted({kCommon, kGateway})));
  EXPECT_THAT(Metrics(Role::kVisionWorker, "1").FamilyNames(),
              ElementsAreArray(Sorted({kCommon, kWorker, kVision})));
  EXPECT_THAT(Metrics(Role::kLlmWorker, "1").FamilyNames(),
              ElementsAreArray(Sorted({kCommon, kWorker, kLanguage})));
  EXPECT_THAT(Metrics(Role::kSupervisor, "1").FamilyNames(),
              ElementsAreArray(Sorted({kSupervisor})));
}

// Every call there is, so that every family has something to show.
void CallAll(Metrics* metrics) {
  metrics->RequestBegan(Method::kGround);
  metrics->RequestEnded(Method::kGround, absl::StatusCode::kOk, absl::Milliseconds(80));
  metrics->RequestBegan(Method::kDecode);
  metrics->RequestEnded(Method::kDecode, absl::StatusCode::kCancelled, absl::Milliseconds(3));
  metrics->StageTook(Stage::kPrefill, absl::Milliseconds(14));
  metrics->StageTook(Stage::kProbe, absl::Milliseconds(14));
  metrics->SetQueueDepth(Queue::kEncode, 3);
  metrics->SetQueueAge(Queue::kEncode, absl::Milliseconds(30));
  metrics->SetQueueAge(Queue::kPrefill, absl::Milliseconds(30));
  metrics->SetModelInfo("nano", "f1", "", "");
  metrics->SetModelInfo("nano", "f2", "bf16", "cpu");
  metrics->SetLoad(3, 2, 0.5);
  metrics->Authenticated(AuthOutcome::kOk);
  metrics->TlsHandshakeFailed();
  metrics->SetCertificateExpiry(absl::UnixEpoch());
  metrics->CertificateReloaded(false);
  metrics->SetProcessUp(Role::kGateway, true);
  metrics->Restarted(Role::kGateway, RestartCause::kHang);
  metrics->Rejected(errors::ImagePixelLimit(2, 2, 1));
  metrics->Cancelled(Point::kPush);
  metrics->DeadlineExceeded(Point::kQueue);
  metrics->SetReady(true);
  metrics->HttpResponse(404);
  metrics->HttpResponse(-1);
  metrics->HttpResponse(1000);
  metrics->SetWorkers(Role::kLlmWorker, 2);
  metrics->Answered(3);
  metrics->BoxConfidence(0.72);
  metrics->ImageReceived(1000);
  metrics->SetImageStore(5000, 2);
  metrics->Image(ImageEvent::kEvicted);
  metrics->SetSessions(3);
  metrics->ServedBy(CacheTier::kKv);
  metrics->Retried(RetryOutcome::kAnswered);
  metrics->ImageEncoded(3996);
  metrics->EncodeBatch(2);
  metrics->Tokens(TokenKind::kGenerated, 26);
  metrics->PromptLength(1030);
  metrics->AnswerLength(26);
  metrics->TimeToFirstToken(absl::Milliseconds(60));
  metrics->DecodeBatch(4);
  metrics->SetInflightTokens(2000);
  metrics->SetKvBytes(KvState::kUsed, 1 << 20);
  metrics->SetTickets(1);
  metrics->SetImageCache(3, 9000);
  metrics->SetQueueDepth(Queue::kPrefill, 2);
  metrics->Session(SessionEvent::kHit);
  metrics->EmbeddingBytes(Direction::kSent, 4096);
  metrics->SetModelState("3b \"v1\"\\\n", ModelState::kReady);
  metrics->LogLine(LogLevel::kInfo);
  metrics->SetLogDropped(5);
}

bool IsName(absl::string_view text) {
  return !text.empty() && !absl::ascii_isdigit(text[0]) &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == ':'; });
}

// Takes {name="value",…} off the front; the only escapes are \\, \" and \n.
bool ConsumeLabels(absl::string_view* text) {
  if (!absl::ConsumePrefix(text, "{")) return true;
  while (true) {
    const size_t equals = text->find('=');
    if (equals == text->npos || !IsName(text->substr(0, equals))) return false;
    text->remove_prefix(equals + 1);
    if (!absl::ConsumePrefix(text, "\"")) return false;
    while (!absl::ConsumePrefix(text, "\"")) {
      const bool escape = absl::ConsumePrefix(text, "\\");
      if (text->empty() || (escape && !absl::StrContains("\\\"n", text->substr(0, 1))))
        return false;
      text->remove_prefix(1);
    }
    if (absl::ConsumePrefix(text, "}")) return true;
    if (!absl::ConsumePrefix(text, ",")) return false;
  }
}

// Exposition format 0.0.4, as `promtool check metrics` would read it.
void ExpectValid(const std::string& text) {
  ASSERT_TRUE(absl::EndsWith(text, "\n"));
  std::map<std::string, std::string> types;
  std::set<std::string> samples;
  std::string family;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "# HELP ")) continue;
    if (absl::StartsWith(line, "# TYPE ")) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      ASSERT_EQ(words.size(), 4u) << line;
      EXPECT_TRUE(types.emplace(words[2], words[3]).second) << "twice: " << line;
      family = words[2];
      EXPECT_EQ(absl::EndsWith(family, "_total"), words[3] == "counter") << line;
      continue;
    }
    absl::string_view rest = line;
    const std::string name(rest.substr(0, rest.find_first_of("{ ")));
    rest.remove_prefix(name.size());
    ASSERT_TRUE(IsName(name) && ConsumeLabels(&rest) && absl::ConsumePrefix(&rest, " ")) << line;
    const std::string suffix = name.substr(std::min(name.size(), family.size()));
    EXPECT_TRUE(absl::StartsWith(name, family)) << line;
    EXPECT_TRUE(suffix.empty() || (types[family] == "histogram" &&
                                   (suffix == "_bucket" || suffix == "_sum" || suffix == "_count")))
        << line;
    double value = 0;
    EXPECT_TRUE(absl::SimpleAtod(rest, &value)) << line;
    EXPECT_TRUE(samples.emplace(line.substr(0, line.size() - rest.size())).second)
        << "twice: " << line;
  }
}

TEST(MetricsTest, WritesValidExpositionForEveryRole) {
  for (const Role role : {Role::kGateway, Role::kVisionWorker, Role::kLlmWorker}) {
    Metrics metrics(role, "0.1.0");
    ExpectValid(metrics.Serialize());
    CallAll(&metrics);
    const std::string text = metrics.Serialize();
    ExpectValid(text);
    // Every family is described and each of its calls arrived.
    for (const std::string& name : metrics.FamilyNames()) {
      EXPECT_THAT(text, HasSubstr(absl::StrCat("# HELP ", name, " ")));
      EXPECT_THAT(text, HasSubstr(absl::StrCat("# TYPE ", name, " ")));
    }
    EXPECT_THAT(text, HasSubstr(absl::StrCat("chord_build_info{role=\"", std::string(Name(role)),
                                             "\",version=\"0.1.0\"} 1")));
  }
}

TEST(MetricsTest, CountsWhatItIsTold) {
  Metrics gateway(Role::kGateway, "1");
  CallAll(&gateway);
  const std::string text = gateway.Serialize();
  for (const char* line : {"chord_requests_total{code=\"OK\",method=\"ground\"} 1",
                           "chord_inflight_requests{method=\"ground\"} 0",
                           "chord_request_seconds_bucket{method=\"ground\",le=\"0.05\"} 0",
                           "chord_request_seconds_bucket{method=\"ground\",le=\"0.1\"} 1",
                           "chord_stage_seconds_bucket{stage=\"probe\",le=\"0.02\"} 1",
                           "chord_rejected_total{reason=\"IMAGE_TOO_LARGE\"} 1",
                           "chord_cancelled_total{at=\"push\"} 1",
                           "chord_deadline_exceeded_total{at=\"queue\"} 1",
                           "chord_ready 1",
                           "chord_http_responses_total{class=\"4xx\"} 1",
                           "chord_http_responses_total{class=\"5xx\"} 0",
                           "chord_workers{role=\"llm_worker\"} 2",
                           "chord_box_confidence_bucket{le=\"0.7\"} 0",
                           "chord_box_confidence_bucket{le=\"0.75\"} 1",
                           "chord_image_store_bytes 5000",
                           "chord_image_store_images 2",
                           "chord_sessions 3",
                           "chord_image_store_total{event=\"evicted\"} 1",
                           "chord_image_cache_requests_total{cache=\"kv\"} 1",
                           "chord_retries_total{outcome=\"answered\"} 1",
                           "chord_session_total{event=\"hit\"} 1",
                           "chord_image_bytes_total 1000",
                           "chord_log_lines_total{level=\"info\"} 1",
                           "chord_log_dropped_total 5"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n", line, "\n")));
  }
  Metrics language(Role::kLlmWorker, "1");
  CallAll(&language);
  const std::string worker = language.Serialize();
  for (const char* line :
       {"chord_tokens_total{kind=\"generated\"} 26", "chord_prompt_tokens_bucket{le=\"1024\"} 0",
        "chord_prompt_tokens_bucket{le=\"2048\"} 1", "chord_kv_bytes{state=\"used\"} 1048576",
        "chord_queue_depth{queue=\"prefill\"} 2",
        R"(chord_model_state{state="ready",version="3b \"v1\"\\\n"} 1)",
        R"(chord_model_state{state="loading",version="3b \"v1\"\\\n"} 0)",
        "chord_image_cache_requests_total{cache=\"kv\"} 1", "chord_image_cache_images 3"}) {
    EXPECT_THAT(worker, HasSubstr(absl::StrCat("\n", line, "\n")));
  }
  EXPECT_THAT(worker, Not(HasSubstr("method=\"ground\",le")));
  // What a process never measures would read as a measured 0.
  EXPECT_THAT(worker, Not(HasSubstr("queue=\"encode\"")));
  EXPECT_THAT(text, Not(HasSubstr("chord_queue_depth")));
  EXPECT_THAT(text, Not(HasSubstr("chord_workers{role=\"gateway\"}")));
  Metrics vision(Role::kVisionWorker, "1");
  CallAll(&vision);
  EXPECT_THAT(vision.Serialize(), HasSubstr("\nchord_queue_depth{queue=\"encode\"} 3\n"));
}

TEST(MetricsTest, CountsEveryReasonOfARequestByItsName) {
  int count = 0;
  for (const ReasonInfo& info : kReasons) {
    if (info.reason >= Reason::kCheckpointInvalid) continue;  // of files and flags
    Metrics metrics(Role::kGateway, "1");
    metrics.Rejected(MakeCatalogued(info.code, info.name, ""));
    EXPECT_THAT(metrics.Serialize(), HasSubstr(absl::StrCat("{reason=\"", info.name, "\"} 1\n")));
    ++count;
  }
  EXPECT_GT(count, 35);
}

TEST(MetricsTest, AnUnknownReasonBecomesNoNewSeries) {
  Metrics metrics(Role::kGateway, "1");
  metrics.Rejected(MakeCatalogued(absl::StatusCode::kInternal, "x\"} 1\nfake{", ""));
  metrics.Rejected(absl::InternalError("of a library"));
  metrics.Rejected(errors::ConfigInvalid("of a flag"));
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("chord_rejected_total{reason=\"OTHER\"} 3\n"));
  EXPECT_THAT(text, Not(HasSubstr("fake")));
}

TEST(MetricsTest, RemembersABoundedNumberOfVersions) {
  Metrics metrics(Role::kLlmWorker, "1");
  for (int i = 0; i < 100; ++i) {
    metrics.SetModelState(absl::StrCat("v", i), ModelState::kReady);
  }
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("version=\"v15\""));
  EXPECT_THAT(text, Not(HasSubstr("version=\"v16\"")));
}

TEST(MetricsTest, ReadsTheProcess) {
  const std::string text = Metrics(Role::kGateway, "1").Serialize();
  const auto value = [&](const std::string& name) {
    double number = -1;
    const size_t at = text.find("\n" + name + " ");
    if (at == text.npos) return number;
    const size_t begin = at + name.size() + 2;
    EXPECT_TRUE(absl::SimpleAtod(text.substr(begin, text.find('\n', begin) - begin), &number));
    return number;
  };
  EXPECT_GT(value("process_resident_memory_bytes"), 1e6);
  EXPECT_GT(value("process_virtual_memory_bytes"), 1e6);
  EXPECT_GE(value("process_open_fds"), 3);
  EXPECT_GE(value("process_threads"), 1);
  EXPECT_GT(value("process_start_time_seconds"), 1.6e9);
  EXPECT_GE(value("process_cpu_seconds_total"), 0);
}

TEST(MetricsTest, TakesCallsFromManyThreads) {
  Metrics metrics(Role::kLlmWorker, "1");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        CallAll(&metrics);
        if (i % 100 == 0) ExpectValid(metrics.Serialize());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(metrics.Serialize(), HasSubstr("chord_tokens_total{kind=\"generated\"} 52000\n"));
}

}  // namespace
}  // namespace chord::obs
