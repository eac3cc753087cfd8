#include "services/cli/ground/batch_client.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"
#include "services/cli/client.h"
#include "services/cli/files.h"
#include "services/cli/upload.h"

namespace chord::cli {
namespace {

constexpr int kMaxAttempts = 6;          // of one file
constexpr int kMaxFruitlessStreams = 3;  // in a row, without an answer
constexpr absl::Duration kReconnectTimeout = absl::Seconds(15);
// Larger files are uploaded in chunks and named by their handle, so that no message meets the
// server's limit.
constexpr size_t kMaxInlineBytes = 4 << 20;

}  // namespace

BatchClient::BatchClient(const std::string& server, const Options& options,
                         const std::vector<std::string>& files, OnAnswer on_answer)
    : channel_(rpc::MakeChannel(server)),
      grounding_(v1::Grounding::NewStub(channel_)),
      images_(v1::Images::NewStub(channel_)),
      options_(options),
      files_(files),
      on_answer_(std::move(on_answer)) {
  for (size_t i = 0; i < files.size(); ++i) waiting_.push_back({i, 0, absl::InfinitePast()});
}

absl::Status BatchClient::Run() {
  absl::Status status;
  for (int fruitless = 0; fruitless < kMaxFruitlessStreams; ++fruitless) {
    size_t before = 0;
    {
      absl::MutexLock lock(&mu_);
      before = answered_;
    }
    status = RunStream();
    absl::MutexLock lock(&mu_);
    if (answered_ == files_.size()) return absl::OkStatus();
    if (!absl::IsUnavailable(status) || answered_ == 0) break;
    if (answered_ > before) fruitless = -1;
    const absl::Time patience = absl::Now() + kReconnectTimeout;
    if (!channel_->WaitForConnected(absl::ToChronoTime(patience))) break;
  }
  if (status.ok()) status = errors::WorkerLost("language");
  if (IsNoServer(status)) status = NoServer();
  absl::MutexLock lock(&mu_);
  for (const auto& [file, call] : in_flight_) on_answer_(file, status);
  for (const Waiting& one : waiting_) on_answer_(one.file, status);
  return status;
}

absl::Status BatchClient::RunStream() {
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = grounding_->GroundBatch(&context);
  {
    absl::MutexLock lock(&mu_);
    for (auto& [file, call] : in_flight_) {  // of a stream that broke
      waiting_.push_front({file, call.attempts, absl::InfinitePast()});
    }
    in_flight_.clear();
    broken_ = false;
  }
  std::thread sender([&] { SendAll(context, *stream); });
  v1::GroundBatchResponse response;
  while (stream->Read(&response)) TakeResponse(response);
  {
    absl::MutexLock lock(&mu_);
    broken_ = true;
    changed_.SignalAll();
  }
  sender.join();
  const absl::Status status = rpc::FromGrpc(stream->Finish());
  absl::MutexLock lock(&mu_);
  return gave_up_ && absl::IsCancelled(status) ? absl::OkStatus() : status;
}

void BatchClient::SendAll(grpc::ClientContext& context, Stream& stream) {
  while (const std::optional<size_t> file = NextFile()) {
    const absl::Status sent = SendFile(*file, stream);
    absl::MutexLock lock(&mu_);
    if (!sent.ok() && in_flight_.erase(*file) > 0) Answer(*file, sent);
  }
  bool answers_unwanted = false;
  {
    absl::MutexLock lock(&mu_);
    answers_unwanted = gave_up_ && !broken_;
  }
  if (answers_unwanted) {
    context.TryCancel();
  } else {
    stream.WritesDone();
  }
}

std::optional<size_t> BatchClient::NextFile() {
  absl::MutexLock lock(&mu_);
  while (!broken_) {
    const absl::Time now = absl::Now();
    ExpireInFlight(now);
    if (answered_ == files_.size()) return std::nullopt;
    const auto ready = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&](const Waiting& one) { return one.not_before <= now; });
    if (static_cast<int>(in_flight_.size()) < options_.parallel && ready != waiting_.end()) {
      const Waiting one = *ready;
      waiting_.erase(ready);
      in_flight_[one.file] = {one.attempts + 1, now + options_.timeout, ""};
      return one.file;
    }
    changed_.WaitWithDeadline(&mu_, NextEvent(now));
  }
  return std::nullopt;
}

void BatchClient::ExpireInFlight(absl::Time now) {
  for (auto at = in_flight_.begin(); at != in_flight_.end();) {
    const auto call = at++;
    if (now < call->second.deadline) continue;
    const size_t file = call->first;
    in_flight_.erase(call);
    gave_up_ = true;
    Answer(file, errors::DeadlineExceeded());
  }
}

absl::Time BatchClient::NextEvent(absl::Time now) const {
  absl::Time next = now + absl::Seconds(60);
  for (const auto& [file, call] : in_flight_) next = std::min(next, call.deadline);
  if (static_cast<int>(in_flight_.size()) >= options_.parallel) return next;
  for (const Waiting& one : waiting_) next = std::min(next, std::max(one.not_before, now));
  return next;
}

absl::Status BatchClient::SendFile(size_t file, Stream& stream) {
  CHORD_ASSIGN_OR_RETURN(std::string bytes, ReadWhole(files_[file], limits::kCeilingImageBytes));
  v1::GroundBatchRequest item;
  item.set_tag(absl::StrCat(file));
  *item.mutable_request() = options_.request;
  if (bytes.size() <= kMaxInlineBytes) {
    item.mutable_request()->set_image(std::move(bytes));
  } else {
    CHORD_ASSIGN_OR_RETURN(const std::string id,
                           UploadImage(*images_, bytes, absl::Now() + options_.timeout));
    item.mutable_request()->set_image_id(id);
    absl::MutexLock lock(&mu_);
    if (const auto call = in_flight_.find(file); call != in_flight_.end()) {
      call->second.image_id = id;
    }
  }
  stream.Write(item);  // a broken stream reports itself to the reader
  return absl::OkStatus();
}

void BatchClient::TakeResponse(const v1::GroundBatchResponse& response) {
  std::string image_id;
  {
    absl::MutexLock lock(&mu_);
    size_t file = 0;
    if (!absl::SimpleAtoi(response.tag(), &file)) return;
    const auto call = in_flight_.find(file);
    if (call == in_flight_.end()) return;  // its deadline has passed
    const int attempts = call->second.attempts;
    image_id = call->second.image_id;
    in_flight_.erase(call);
    if (response.has_error()) {
      const v1::Error& error = response.error();
      const absl::Duration wait = absl::Seconds(error.retry_after_seconds());
      if (wait > absl::ZeroDuration() && attempts < kMaxAttempts) {
        waiting_.push_back({file, attempts, absl::Now() + wait});
      } else {
        Answer(file, MakeCatalogued(static_cast<absl::StatusCode>(error.code()), error.reason(),
                                    error.message()));
      }
    } else {
      Answer(file, response.response());
    }
    changed_.SignalAll();
  }
  if (!image_id.empty()) DeleteImage(image_id);
}

void BatchClient::DeleteImage(const std::string& image_id) {
  grpc::ClientContext context;
  rpc::SetDeadline(context, absl::Now() + absl::Seconds(5));
  v1::ImageRef ref;
  ref.set_image_id(image_id);
  v1::DeleteImageResponse ignored;
  (void)images_->Delete(&context, ref, &ignored);  // it expires by itself otherwise
}

void BatchClient::Answer(size_t file, const absl::StatusOr<v1::GroundResponse>& answer) {
  ++answered_;
  on_answer_(file, answer);
}

}  // namespace chord::cli
