#include "common/process/span_exporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/errors.h"
#include "common/http/server.h"

namespace chord::process {
namespace {

using nlohmann::json;

obs::Span MakeSpan(const std::string& name) {
  obs::Span span;
  span.name = name;
  span.trace_id = std::string(32, 'a');
  span.span_id = std::string(16, 'b');
  span.start = absl::FromUnixNanos(1'700'000'000'123'456'789);
  span.end = span.start + absl::Milliseconds(5);
  return span;
}

TEST(ToOtlpJson, IsWhatACollectorReads) {
  obs::Span whole = MakeSpan("ground \"x\"");
  whole.server = true;
  whole.code = absl::StatusCode::kUnavailable;
  whole.attributes = {{"chord.request_id", "req_1"}};
  obs::Span part = MakeSpan("vision");
  part.parent_id = whole.span_id;
  const json body = json::parse(ToOtlpJson({whole, part}, "chord-gateway", "1.2"));
  const json& resource = body["resourceSpans"][0];
  EXPECT_EQ(resource["resource"]["attributes"][0]["value"]["stringValue"], "chord-gateway");
  const json& spans = resource["scopeSpans"][0]["spans"];
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0]["name"], "ground \"x\"");
  EXPECT_EQ(spans[0]["kind"], 2);
  EXPECT_EQ(spans[0]["status"]["code"], 2);
  EXPECT_EQ(spans[0]["startTimeUnixNano"], "1700000000123456789");
  EXPECT_EQ(spans[0].count("parentSpanId"), 0u);
  EXPECT_EQ(spans[1]["parentSpanId"], whole.span_id);
  EXPECT_EQ(spans[1].count("status"), 0u);
}

TEST(CheckTracingSettings, NamesWhatIsWrong) {
  config::v1::Tracing settings;
  EXPECT_TRUE(CheckTracingSettings(settings).ok());
  for (const char* endpoint :
       {"http://collector:4318", "http://127.0.0.1:4318/", "http://[::1]:1/x"}) {
    settings.set_endpoint(endpoint);
    EXPECT_TRUE(CheckTracingSettings(settings).ok()) << endpoint;
  }
  for (const char* endpoint : {"collector:4318", "https://collector:4318", "http://",
                               "http://:4318", "http://collector", "http://collector:x"}) {
    settings.set_endpoint(endpoint);
    EXPECT_EQ(ErrorReason(CheckTracingSettings(settings)), "CONFIG_INVALID") << endpoint;
  }
  settings.set_endpoint("");
  settings.set_sample_ratio(1.5);
  EXPECT_FALSE(CheckTracingSettings(settings).ok());
}

// A collector that keeps what it is sent.
class SpanExporterTest : public testing::Test {
 protected:
  SpanExporterTest() {
    http::Route route;
    route.method = "POST";
    route.path = "/prefix/v1/traces";
    route.body_limit = 16 << 20;
    route.handler = [this](const http::Request& request) {
      absl::MutexLock lock(&mu_);
      const json body = json::parse(request.body);
      for (const json& span : body["resourceSpans"][0]["scopeSpans"][0]["spans"]) {
        names_.push_back(span["name"]);
      }
      http::Response out;
      out.status = status_;
      return out;
    };
    http::Server::Options options;
    options.address = "127.0.0.1:0";
    auto server = http::Server::Start(std::move(options), {route});
    EXPECT_TRUE(server.ok());
    server_ = *std::move(server);
    settings_.set_endpoint(absl::StrCat("http://", server_->address(), "/prefix/"));
  }
  std::unique_ptr<SpanExporter> Start() {
    auto exporter = SpanExporter::Start(settings_, "chord-test", "1");
    EXPECT_TRUE(exporter.ok()) << exporter.status();
    return *std::move(exporter);
  }
  std::vector<std::string> names() {
    absl::MutexLock lock(&mu_);
    return names_;
  }

  config::v1::Tracing settings_;
  absl::Mutex mu_;
  std::vector<std::string> names_;
  int status_ = 200;
  std::unique_ptr<http::Server> server_;
};

TEST_F(SpanExporterTest, WhatItHoldsIsSentBeforeTheEnd) {
  auto exporter = Start();
  EXPECT_TRUE(obs::IsTracing());
  obs::EmitSpans({MakeSpan("a"), MakeSpan("b")});
  exporter = nullptr;
  EXPECT_THAT(names(), testing::ElementsAre("a", "b"));
  EXPECT_FALSE(obs::IsTracing());
  obs::EmitSpans({MakeSpan("c")});
}

TEST_F(SpanExporterTest, ManySpansGoInBatches) {
  auto exporter = Start();
  for (int i = 0; i < 3000; ++i) obs::EmitSpans({MakeSpan("s")});
  exporter = nullptr;
  EXPECT_EQ(names().size(), 3000u);
}

TEST_F(SpanExporterTest, ACollectorThatIsNotThereHoldsNothingUp) {
  server_ = nullptr;
  auto exporter = Start();
  for (int i = 0; i < 100'000; ++i) obs::EmitSpans({MakeSpan("s")});
  exporter = nullptr;
  EXPECT_TRUE(names().empty());
}

TEST_F(SpanExporterTest, WithoutAnEndpointThereIsNone) {
  settings_.clear_endpoint();
  EXPECT_EQ(Start(), nullptr);
  EXPECT_FALSE(obs::IsTracing());
}

}  // namespace
}  // namespace chord::process
