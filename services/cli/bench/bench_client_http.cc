// HTTP for `chord bench`: POST /api/ground as multipart/form-data, server-sent events when
// streamed.
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/http/client.h"
#include "services/cli/bench/bench_client.h"
#include "services/cli/bench/bench_sse.h"

namespace chord::cli {
namespace {

using Json = nlohmann::json;

// Longer than any run of the same letters in an image is likely to be, and no image of ours.
constexpr char kBoundary[] = "chord-bench-5f0c1d2e7b9a4e36a8d0c4f1";

void AddField(std::string& form, absl::string_view name, absl::string_view value) {
  absl::StrAppend(&form, "--", kBoundary, "\r\nContent-Disposition: form-data; name=\"", name,
                  "\"\r\n\r\n", value, "\r\n");
}

double Number(const Json& parent, const char* name) {
  const auto it = parent.find(name);
  return it != parent.end() && it->is_number() ? it->get<double>() : 0;
}

std::string String(const Json& parent, const char* name) {
  const auto it = parent.find(name);
  return it != parent.end() && it->is_string() ? it->get<std::string>() : "";
}

Json Object(const Json& parent, const char* name) {
  const auto it = parent.find(name);
  return it != parent.end() && it->is_object() ? *it : Json::object();
}

absl::StatusCode CodeOf(int http_status) {
  switch (http_status) {
    case 400:
    case 415:
      return absl::StatusCode::kInvalidArgument;
    case 404:
      return absl::StatusCode::kNotFound;
    case 429:
      return absl::StatusCode::kResourceExhausted;
    case 501:
      return absl::StatusCode::kUnimplemented;
    case 503:
      return absl::StatusCode::kUnavailable;
    case 408:
    case 504:
      return absl::StatusCode::kDeadlineExceeded;
    default:
      return absl::StatusCode::kInternal;
  }
}

// problem+json, or whatever else came instead of an answer.
absl::Status Refusal(int http_status, const Json& problem) {
  const std::string reason = problem.is_object() ? String(problem, "code") : "";
  return MakeCatalogued(CodeOf(http_status),
                        reason.empty() ? absl::StrCat("HTTP_", http_status) : reason,
                        problem.is_object() ? String(problem, "detail") : "");
}

void Take(const Json& answer, BenchReply& reply) {
  const Json timing = Object(answer, "timing");
  reply.times = {Number(timing, "queue_ms"),   Number(timing, "vision_ms"),
                 Number(timing, "prefill_ms"), Number(timing, "ttft_ms"),
                 Number(timing, "decode_ms"),  Number(timing, "total_ms")};
  const Json usage = Object(answer, "usage");
  reply.completion_tokens = static_cast<int>(Number(usage, "completion_tokens"));
  reply.decode_steps = static_cast<int>(Number(usage, "decode_steps"));
  const std::string cache = String(usage, "cache");
  reply.served_by = cache == "none"         ? ServedBy::kNone
                    : cache == "embeddings" ? ServedBy::kEmbeddings
                    : cache == "kv"         ? ServedBy::kKv
                                            : ServedBy::kUnknown;
  const auto boxes = answer.find("boxes");
  reply.boxes = boxes != answer.end() && boxes->is_array() ? static_cast<int>(boxes->size()) : 0;
  reply.image_id = String(answer, "image_id");
}

Json ParseJson(absl::string_view text) {
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

// Reads one answer, whole or as server-sent events.
class ReplyReader {
 public:
  // A refusal is no stream of events: then the parser finds none.
  void AddEvents(absl::string_view part) {
    for (const SseEvent& event : events_.Add(part)) {
      const Json data = ParseJson(event.data);
      if (data.is_object()) AddEvent(data);
    }
  }

  const BenchReply& Finish(const absl::StatusOr<http::Response>& response) {
    if (!Refused(response)) {
      const Json answer = ParseJson(response->body);
      if (answer.is_object()) {
        Take(answer, reply_);
      } else {
        reply_.status = absl::UnavailableError("the answer cannot be read");
      }
    }
    return reply_;
  }
  const BenchReply& FinishStream(const absl::StatusOr<http::Response>& response) {
    if (!Refused(response) && !events_.finished) {
      reply_.status = absl::UnavailableError("the stream ended before the answer");
    }
    return reply_;
  }

 private:
  void AddEvent(const Json& data) {
    const Json response = data.contains("response") ? Object(data, "response") : data;
    if (response.contains("usage")) {
      events_.finished = true;
      Take(response, reply_);
    } else if (data.contains("code") && data.contains("detail")) {
      events_.finished = true;
      reply_.status = Refusal(static_cast<int>(Number(data, "status")), data);
    } else {
      reply_.first_token_at = std::min(reply_.first_token_at, absl::Now());
    }
  }
  bool Refused(const absl::StatusOr<http::Response>& response) {
    if (!response.ok()) {
      reply_.status = response.status();
      return true;
    }
    if (response->status == 200) return false;
    reply_.status = Refusal(response->status, ParseJson(response->body));
    return true;
  }

  SseParser events_;
  BenchReply reply_;
};

class HttpClient final : public BenchClient {
 public:
  HttpClient(Options options, std::shared_ptr<const Dataset> dataset)
      : options_(std::move(options)),
        dataset_(std::move(dataset)),
        tail_(std::make_shared<const std::string>(absl::StrCat("\r\n--", kBoundary, "--\r\n"))) {}

  absl::Status Connect() {
    CHORD_ASSIGN_OR_RETURN(client_, http::Client::Start({.address = options_.address}));
    http::ClientRequest request;
    request.method = "GET";
    request.path = "/healthz";
    const absl::StatusOr<http::Response> answer = Wait(std::move(request), absl::Seconds(5));
    if (answer.ok()) return absl::OkStatus();
    return absl::UnavailableError(
        "No Chord answers at the server's address. Start one with \"chord serve\", or name its "
        "HTTP address with --server.");
  }

  void Send(const BenchAsk& ask, std::function<void(const BenchReply&)> done) override {
    auto reply = std::make_shared<ReplyReader>();
    if (!options_.stream) {
      client_->Send(
          MakeRequest(ask), nullptr,
          [reply, done = std::move(done)](const auto& response) { done(reply->Finish(response)); });
      return;
    }
    client_->Send(
        MakeRequest(ask), [reply](absl::string_view part) { reply->AddEvents(part); },
        [reply, done = std::move(done)](const auto& response) {
          done(reply->FinishStream(response));
        });
  }

  absl::StatusOr<std::string> Upload(int image, absl::Duration timeout) override {
    http::ClientRequest request;
    request.path = "/api/images";
    request.fields = {{"Content-Type", absl::StrCat("multipart/form-data; boundary=", kBoundary)}};
    AddImage(image, "", request);
    CHORD_ASSIGN_OR_RETURN(const http::Response response, Wait(std::move(request), timeout));
    const Json answer = ParseJson(response.body);
    if (response.status / 100 != 2) return Refusal(response.status, answer);
    std::string id = answer.is_object() ? String(answer, "image_id") : "";
    if (id.empty())
      return absl::UnavailableError("The server's answer to an upload has no image_id.");
    return id;
  }

  void CancelAll() override { client_->CancelAll(); }

 private:
  http::ClientRequest MakeRequest(const BenchAsk& ask) const {
    std::string form;
    AddField(form, "prompt", ask.prompt);
    if (options_.max_new_tokens > 0) {
      AddField(form, "max_new_tokens", absl::StrCat(options_.max_new_tokens));
    }
    if (options_.grammar != v1::GRAMMAR_UNSPECIFIED) {
      AddField(form, "grammar", options_.grammar == v1::GRAMMAR_OFF ? "off" : "auto");
    }
    if (options_.stream) AddField(form, "stream", "true");
    http::ClientRequest request;
    request.path = "/api/ground";
    request.fields = {{"Content-Type", absl::StrCat("multipart/form-data; boundary=", kBoundary)},
                      {"X-Request-Timeout", absl::StrCat(absl::ToDoubleSeconds(ask.timeout))}};
    // The server's own deadline is the same; its refusal gets a moment to arrive.
    request.timeout = ask.timeout + absl::Milliseconds(200);
    if (!ask.image_id.empty()) {
      AddField(form, "image_id", ask.image_id);
      form.resize(form.size() - 2);  // the tail begins with the line's end
      request.body = {std::make_shared<const std::string>(std::move(form)), tail_};
    } else {
      AddImage(ask.image, std::move(form), request);
    }
    return request;
  }

  void AddImage(int image, std::string form, http::ClientRequest& request) const {
    absl::StrAppend(&form, "--", kBoundary,
                    "\r\nContent-Disposition: form-data; name=\"image\"; filename=\"image\"\r\n"
                    "Content-Type: application/octet-stream\r\n\r\n");
    // Shares the dataset's ownership: the bytes are not copied.
    const std::shared_ptr<const std::string> bytes(
        dataset_, &dataset_->images[static_cast<size_t>(image)].bytes);
    request.body = {std::make_shared<const std::string>(std::move(form)), bytes, tail_};
  }

  absl::StatusOr<http::Response> Wait(http::ClientRequest request, absl::Duration timeout) {
    request.timeout = timeout;
    absl::StatusOr<http::Response> out = absl::UnknownError("");
    absl::Notification ended;
    client_->Send(std::move(request), nullptr, [&](absl::StatusOr<http::Response> response) {
      out = std::move(response);
      ended.Notify();
    });
    ended.WaitForNotification();
    return out;
  }

  const Options options_;
  const std::shared_ptr<const Dataset> dataset_;
  const std::shared_ptr<const std::string> tail_;
  std::unique_ptr<http::Client> client_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BenchClient>> BenchClient::Http(
    Options options, std::shared_ptr<const Dataset> dataset) {
  auto out = std::make_unique<HttpClient>(std::move(options), std::move(dataset));
  const absl::Status status = out->Connect();
  if (!status.ok()) return status;
  return std::unique_ptr<BenchClient>(std::move(out));
}

}  // namespace chord::cli
