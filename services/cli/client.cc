#include "services/cli/client.h"

#include <grpcpp/client_context.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "chord/v1/grounding.grpc.pb.h"
#include "common/base/errors.h"
#include "common/base/host_port.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/http/client.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"

namespace chord::cli {
namespace {

using Json = nlohmann::json;

class GrpcClient final : public Client {
 public:
  explicit GrpcClient(const std::string& address)
      : stub_(v1::Grounding::NewStub(rpc::MakeChannel(address))) {}

  absl::StatusOr<v1::GroundResponse> Ground(const GroundCall& call) override {
    v1::GroundRequest request;
    request.set_image(call.image.data(), call.image.size());
    request.set_prompt(call.prompt);
    request.mutable_labels()->Assign(call.labels.begin(), call.labels.end());
    request.set_grammar(call.grammar);
    request.set_want_evidence(call.want_evidence);
    if (call.max_new_tokens > 0) request.set_max_new_tokens(call.max_new_tokens);
    grpc::ClientContext context;
    rpc::SetDeadline(context, absl::Now() + call.timeout);
    v1::GroundResponse answer;
    const absl::Status status = rpc::FromGrpc(stub_->Ground(&context, request, &answer));
    if (status.ok()) return answer;
    return IsNoServer(status) ? NoServer() : status;
  }

 private:
  const std::unique_ptr<v1::Grounding::Stub> stub_;
};

absl::Status NotChord() {
  return absl::UnavailableError(
      "The server at this address is not Chord, or its answer was cut off.");
}

class HttpClient final : public Client {
 public:
  explicit HttpClient(std::string address) : address_(std::move(address)) {}

  absl::StatusOr<v1::GroundResponse> Ground(const GroundCall& call) override {
    std::string boundary = NewTicketId();
    while (absl::StrContains(call.image, boundary)) boundary = NewTicketId();
    http::ClientRequest request;
    request.path = "/api/ground";
    request.fields = {{"Content-Type", absl::StrCat("multipart/form-data; boundary=", boundary)}};
    request.body = {std::make_shared<const std::string>(MultipartBody(call, boundary))};
    request.timeout = call.timeout;
    http::Client* const client = Started();
    if (client == nullptr) return NoServer();
    absl::StatusOr<http::Response> response = absl::UnknownError("not answered");
    absl::Notification done;
    client->Send(std::move(request), nullptr, [&](absl::StatusOr<http::Response> result) {
      response = std::move(result);
      done.Notify();
    });
    done.WaitForNotification();  // at most the timeout
    if (absl::IsUnavailable(response.status())) return NoServer();
    CHORD_RETURN_IF_ERROR(response.status());
    return ParseHttpAnswer(response->status, response->body);
  }

 private:
  // Null while the host's name does not resolve.
  http::Client* Started() {
    absl::MutexLock lock(&mu_);
    if (client_ == nullptr) {
      absl::StatusOr<std::unique_ptr<http::Client>> started =
          http::Client::Start({.address = address_});
      if (started.ok()) client_ = *std::move(started);
    }
    return client_.get();
  }

  const std::string address_;
  absl::Mutex mu_;
  std::unique_ptr<http::Client> client_ ABSL_GUARDED_BY(mu_);
};

std::optional<v1::Box> ReadBox(const Json& json) {
  if (!json.is_array() || json.size() != 4) return std::nullopt;
  int64_t side[4];
  for (size_t i = 0; i < 4; ++i) {
    if (!json[i].is_number_integer()) return std::nullopt;
    side[i] = json[i].get<int64_t>();
    if (side[i] < 0 || side[i] > INT32_MAX) return std::nullopt;
  }
  v1::Box out;
  out.set_x1(static_cast<int32_t>(side[0]));
  out.set_y1(static_cast<int32_t>(side[1]));
  out.set_x2(static_cast<int32_t>(side[2]));
  out.set_y2(static_cast<int32_t>(side[3]));
  return out;
}

const Json& Field(const Json& json, const char* name) {
  static const Json kNull;
  const auto found = json.find(name);
  return found == json.end() ? kNull : *found;
}

double NumberOf(const Json& json) { return json.is_number() ? json.get<double>() : std::nan(""); }
std::string TextOf(const Json& json) { return json.is_string() ? json.get<std::string>() : ""; }

// Whether `item` is a label of the answer and its objects are among those of `out`, to which it is
// added.
bool ReadLabel(const Json& item, v1::GroundResponse& out) {
  const Json& objects = item.is_object() ? Field(item, "objects") : item;
  if (!objects.is_array()) return false;
  v1::LabelMatch& match = *out.add_labels();
  match.set_label(TextOf(Field(item, "label")));
  for (const Json& index : objects) {
    if (!index.is_number_unsigned() ||
        index.get<uint64_t>() >= static_cast<uint64_t>(out.objects_size())) {
      return false;
    }
    match.add_objects(index.get<int32_t>());
  }
  const Json& confidence = Field(item, "confidence");
  if (confidence.is_number()) match.set_confidence(confidence.get<double>());
  return true;
}

}  // namespace

absl::Status NoServer() {
  return absl::UnavailableError(
      "No Chord server answers at this address. Start one with \"chord serve\", or name its "
      "address with --server.");
}

bool IsNoServer(const absl::Status& status) {
  return absl::IsUnavailable(status) && !IsCatalogued(status);
}

absl::Status CheckGrpcAddress(absl::string_view address) {
  if (absl::string_view path = address; absl::ConsumePrefix(&path, "unix:") && !path.empty()) {
    return absl::OkStatus();
  }
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (parsed.ok() && !parsed->host.empty() && parsed->port > 0) return absl::OkStatus();
  return errors::ConfigInvalid("--server must be HOST:PORT or unix:PATH.");
}

std::unique_ptr<Client> MakeGrpcClient(const std::string& address) {
  return std::make_unique<GrpcClient>(address);
}

absl::StatusOr<std::unique_ptr<Client>> MakeHttpClient(const std::string& address) {
  absl::string_view rest = address;
  absl::ConsumePrefix(&rest, "http://");
  absl::ConsumeSuffix(&rest, "/");
  const absl::StatusOr<HostPort> parsed = ParseHostPort(rest);
  if (!parsed.ok() || parsed->host.empty() || parsed->port == 0) {
    return errors::ConfigInvalid("--http must be HOST:PORT.");
  }
  return std::make_unique<HttpClient>(parsed->ToString());
}

std::string MultipartBody(const GroundCall& call, absl::string_view boundary) {
  std::string out;
  const auto field = [&](absl::string_view name, absl::string_view value) {
    absl::StrAppend(&out, "--", boundary, "\r\nContent-Disposition: form-data; name=\"", name,
                    "\"\r\n\r\n", value, "\r\n");
  };
  if (call.labels.empty()) field("prompt", call.prompt);
  for (const std::string& label : call.labels) field("labels", label);
  if (call.grammar == v1::GRAMMAR_OFF) field("grammar", "off");
  if (call.max_new_tokens > 0) field("max_new_tokens", absl::StrCat(call.max_new_tokens));
  absl::StrAppend(&out, "--", boundary,
                  "\r\nContent-Disposition: form-data; name=\"image\"; filename=\"image\"\r\n"
                  "Content-Type: application/octet-stream\r\n\r\n",
                  call.image, "\r\n--", boundary, "--\r\n");
  return out;
}

absl::StatusOr<v1::GroundResponse> ParseHttpAnswer(int status, absl::string_view body) {
  const Json json = Json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return NotChord();
  if (status != 200) {
    const std::string detail = TextOf(Field(json, "detail"));
    const std::string message = detail.empty() ? absl::StrCat("HTTP status ", status) : detail;
    switch (status) {
      case 429:
        return absl::ResourceExhaustedError(message);
      case 503:
        return absl::UnavailableError(message);
      case 504:
        return absl::DeadlineExceededError(message);
      default:
        return absl::InvalidArgumentError(message);
    }
  }
  v1::GroundResponse out;
  const Json& objects = Field(json, "objects");
  // Absent when a truncated answer has no box.
  const Json& confidence = Field(json, "confidence");
  // Only a truncated answer without objects has none.
  const bool has_confidence = !confidence.is_null() || Field(json, "finish_reason") != "length";
  if (!objects.is_array() || (has_confidence && !std::isfinite(NumberOf(confidence)))) {
    return NotChord();
  }
  for (const Json& item : objects) {
    const auto box = item.is_object() ? ReadBox(Field(item, "box")) : std::nullopt;
    const double sure = box ? NumberOf(Field(item, "confidence")) : std::nan("");
    if (!std::isfinite(sure)) return NotChord();
    v1::Object& object = *out.add_objects();
    *object.mutable_box() = *box;
    object.set_label(TextOf(Field(item, "label")));
    object.set_confidence(sure);
    object.set_needs_review(Field(item, "needs_review") == true);
    *out.add_boxes() = *box;
  }
  for (const Json& item : Field(json, "labels")) {
    if (!ReadLabel(item, out)) return NotChord();
  }
  if (has_confidence) out.set_confidence(NumberOf(confidence));
  out.set_calibrated(Field(json, "calibrated") == true);
  out.set_text(TextOf(Field(json, "text")));
  out.set_model(TextOf(Field(json, "model")));
  out.set_advice(TextOf(Field(json, "advice")));
  if (Field(json, "finish_reason") == "length") {
    out.set_finish_reason(v1::FINISH_REASON_LENGTH);
  }
  return out;
}

}  // namespace chord::cli
