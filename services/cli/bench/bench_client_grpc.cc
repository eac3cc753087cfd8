// gRPC for `chord bench`. The callback API on a few connections; requests are written by hand from
// two pieces, so that the image's bytes are a slice of the one copy in memory and not serialised
// again for every request (concatenated messages merge, as the wire format promises).
#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "chord/v1/images.grpc.pb.h"
#include "common/base/errors.h"
#include "common/rpc/channel.h"
#include "common/rpc/client_call.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"
#include "services/cli/bench/bench_client.h"
#include "services/cli/upload.h"

namespace chord::cli {
namespace {

constexpr char kUnary[] = "/chord.v1.Grounding/Ground";
constexpr char kStreaming[] = "/chord.v1.Grounding/GroundStream";
constexpr absl::Duration kConnectTimeout = absl::Seconds(5);

ServedBy ServedByOf(v1::Cache cache) {
  switch (cache) {
    case v1::CACHE_NONE:
      return ServedBy::kNone;
    case v1::CACHE_EMBEDDINGS:
      return ServedBy::kEmbeddings;
    case v1::CACHE_KV:
      return ServedBy::kKv;
    default:
      return ServedBy::kUnknown;
  }
}

void Take(const v1::GroundResponse& answer, BenchReply& reply) {
  const v1::Timing& timing = answer.timing();
  reply.times = {timing.queue_ms(), timing.vision_ms(), timing.prefill_ms(),
                 timing.ttft_ms(),  timing.decode_ms(), timing.total_ms()};
  reply.completion_tokens = answer.usage().completion_tokens();
  reply.decode_steps = answer.usage().decode_steps();
  reply.boxes = answer.boxes_size();
  reply.served_by = ServedByOf(answer.usage().cache());
  reply.image_id = answer.image_id();
}

template <class Message>
bool Parse(const grpc::ByteBuffer& buffer, Message& message) {
  grpc::Slice slice;
  return buffer.TrySingleSlice(&slice).ok()
             ? message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))
             : buffer.DumpToSingleSlice(&slice).ok() &&
                   message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
}

// Key and length of GroundRequest.image; the bytes follow.
std::string ImageFieldHead(size_t bytes) {
  uint8_t head[16];
  uint8_t* end = google::protobuf::io::CodedOutputStream::WriteTagToArray(
      v1::GroundRequest::kImageFieldNumber << 3 | 2, head);
  end = google::protobuf::io::CodedOutputStream::WriteVarint64ToArray(bytes, end);
  return std::string(reinterpret_cast<char*>(head), static_cast<size_t>(end - head));
}

class GrpcClient;

// A call of either method: one message goes out, one answer or a stream of events comes back.
class Call final
    : public rpc::ClientCall<grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  Call(GrpcClient& client, bool stream, grpc::ByteBuffer request, absl::Duration timeout,
       std::function<void(const BenchReply&)> done)
      : client_(client), stream_(stream), request_(std::move(request)), done_(std::move(done)) {
    rpc::SetDeadline(context_, absl::Now() + timeout);
  }
  void Start(grpc::GenericStub& stub) {
    stub.PrepareBidiStreamingCall(&context_, stream_ ? kStreaming : kUnary, {}, this);
    StartWriteLast(&request_, grpc::WriteOptions());
    StartRead(&response_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (stream_) {
      v1::GroundEvent event;
      if (!Parse(response_, event)) {
        malformed_ = true;
      } else if (event.has_response()) {
        answered_ = true;
        Take(event.response(), reply_);
      } else {
        reply_.first_token_at = std::min(reply_.first_token_at, absl::Now());
      }
    } else {
      v1::GroundResponse answer;
      answered_ = Parse(response_, answer);
      if (answered_) Take(answer, reply_);
    }
    response_.Clear();
    StartRead(&response_);
  }

 private:
  void OnEnd(const grpc::Status& status) override;

  GrpcClient& client_;
  const bool stream_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  BenchReply reply_;
  bool answered_ = false;
  bool malformed_ = false;
  const std::function<void(const BenchReply&)> done_;
};

class GrpcClient final : public BenchClient {
 public:
  GrpcClient(Options options, std::shared_ptr<const Dataset> dataset)
      : options_(std::move(options)), dataset_(std::move(dataset)) {
    // gRPC may hold a slice for longer than the call lives, so each keeps the dataset alive.
    for (const BenchImage& image : dataset_->images) {
      slices_.emplace_back(
          const_cast<char*>(image.bytes.data()), image.bytes.size(),
          [](void* owner) { delete static_cast<std::shared_ptr<const Dataset>*>(owner); },
          new std::shared_ptr<const Dataset>(dataset_));
    }
    for (int i = 0; i < options_.connections; ++i) {
      channels_.push_back(rpc::MakeChannel(options_.address));
      stubs_.push_back(std::make_unique<grpc::GenericStub>(channels_.back()));
    }
  }

  ~GrpcClient() override {
    CancelAll();
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(
        +[](std::set<Call*>* live) { return live->empty(); }, &live_));
  }

  absl::Status Connect() {
    for (const auto& channel : channels_) {
      if (!channel->WaitForConnected(absl::ToChronoTime(absl::Now() + kConnectTimeout))) {
        return absl::UnavailableError(
            "No Chord answers at the server's address. Start one with \"chord serve\", or name it "
            "with --server.");
      }
    }
    return absl::OkStatus();
  }

  void Send(const BenchAsk& ask, std::function<void(const BenchReply&)> done) override {
    v1::GroundRequest rest;
    rest.set_prompt(ask.prompt);
    if (options_.max_new_tokens > 0) rest.set_max_new_tokens(options_.max_new_tokens);
    rest.set_grammar(options_.grammar);
    std::vector<grpc::Slice> slices;
    if (!ask.image_id.empty()) {
      rest.set_image_id(ask.image_id);
    } else {
      const grpc::Slice& image = slices_[static_cast<size_t>(ask.image)];
      slices.emplace_back(ImageFieldHead(image.size()));
      slices.push_back(image);
    }
    slices.emplace_back(rest.SerializeAsString());
    const auto call = rpc::MakeClientCall<Call>(*this, options_.stream,
                                                grpc::ByteBuffer(slices.data(), slices.size()),
                                                ask.timeout, std::move(done));
    grpc::GenericStub* stub = nullptr;
    {
      absl::MutexLock lock(&mu_);
      live_.insert(call.get());
      stub = stubs_[next_++ % stubs_.size()].get();
    }
    call->Start(*stub);
  }

  absl::StatusOr<std::string> Upload(int image, absl::Duration timeout) override {
    const std::string& bytes = dataset_->images[static_cast<size_t>(image)].bytes;
    auto stub = v1::Images::NewStub(channels_[0]);
    return UploadImage(*stub, bytes, absl::Now() + timeout);
  }

  void CancelAll() override {
    absl::MutexLock lock(&mu_);
    for (Call* call : live_) call->Cancel();
  }

  // The call must not be touched afterwards.
  void Leave(Call* call) {
    absl::MutexLock lock(&mu_);
    live_.erase(call);
  }

 private:
  const Options options_;
  const std::shared_ptr<const Dataset> dataset_;
  std::vector<grpc::Slice> slices_;  // one an image
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  absl::Mutex mu_;
  std::set<Call*> live_ ABSL_GUARDED_BY(mu_);
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;
};

void Call::OnEnd(const grpc::Status& status) {
  reply_.status = rpc::FromGrpc(status);
  if (reply_.status.ok() && (malformed_ || !answered_)) {
    reply_.status = absl::UnavailableError("the answer cannot be read");
  }
  done_(reply_);
  client_.Leave(this);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BenchClient>> BenchClient::Grpc(
    Options options, std::shared_ptr<const Dataset> dataset) {
  auto out = std::make_unique<GrpcClient>(std::move(options), std::move(dataset));
  const absl::Status status = out->Connect();
  if (!status.ok()) return status;
  return std::unique_ptr<BenchClient>(std::move(out));
}

}  // namespace chord::cli
