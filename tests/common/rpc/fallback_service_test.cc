#include "common/rpc/fallback_service.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/rpc/status_map.h"
#include "grpc/reflection/v1/reflection.pb.h"
#include "tests/support/has_reason.h"

namespace chord::rpc {
namespace {

namespace reflection = grpc::reflection::v1;

constexpr char kReflection[] = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

grpc::ByteBuffer Buffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

class FallbackTest : public ::testing::Test {
 protected:
  void Start(std::vector<std::string> reflect) {
    auto server = Server::Start({.address = "127.0.0.1:0", .reflect = std::move(reflect)}, {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // Sends the messages one after the other; the answers that came until the end.
  absl::Status Call(const std::string& method, const std::vector<std::string>& messages,
                    std::vector<std::string>* answers = nullptr) {
    grpc::GenericStub stub(MakeChannel(absl::StrCat("127.0.0.1:", server_->port())));
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(20)));
    grpc::CompletionQueue queue;
    const auto done = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    auto call = stub.PrepareCall(&context, method, &queue);
    call->StartCall(nullptr);
    bool open = done();
    for (const std::string& message : messages) {
      if (!open) break;
      call->Write(Buffer(message), nullptr);
      grpc::ByteBuffer answer;
      if (!(open = done())) break;
      call->Read(&answer, nullptr);
      if (!(open = done())) break;
      std::vector<grpc::Slice> slices;
      std::string bytes;
      (void)answer.Dump(&slices);
      for (const grpc::Slice& slice : slices) {
        bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
      }
      if (answers != nullptr) answers->push_back(bytes);
    }
    if (open) {
      call->WritesDone(nullptr);
      (void)done();
    }
    grpc::Status status;
    call->Finish(&status, nullptr);
    EXPECT_TRUE(done());
    return FromGrpc(status);
  }

  reflection::ServerReflectionResponse Ask(const reflection::ServerReflectionRequest& request,
                                           const std::string& method = kReflection) {
    std::vector<std::string> answers;
    EXPECT_TRUE(Call(method, {request.SerializeAsString()}, &answers).ok());
    reflection::ServerReflectionResponse out;
    EXPECT_TRUE(answers.size() == 1 && out.ParseFromString(answers[0]));
    return out;
  }

  std::unique_ptr<Server> server_;
};

TEST_F(FallbackTest, AnUnknownCallIsRefusedWithAReason) {
  Start({});
  for (const char* method : {"/x.Y/Z", "/", "/chord.v1.Grounding/Nope", kReflection}) {
    EXPECT_THAT(Call(method, {"message"}), HasReason(Reason::kCallUnknown)) << method;
  }
}

TEST_F(FallbackTest, ReflectionTellsOfServicesAndTheirFiles) {
  Start({"a.B"});
  reflection::ServerReflectionRequest request;
  request.set_list_services("");
  for (const std::string& method :
       {std::string(kReflection),
        std::string("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")}) {
    const auto list = Ask(request, method).list_services_response();
    ASSERT_EQ(list.service_size(), 4);
    EXPECT_EQ(list.service(0).name(), "a.B");
  }
  request.set_file_containing_symbol("google.rpc.Status");  // imports google/protobuf/any.proto
  const auto files = Ask(request).file_descriptor_response();
  EXPECT_EQ(files.file_descriptor_proto_size(), 2);
  request.set_file_by_filename("../../etc/passwd");
  const auto nothing = Ask(request);
  EXPECT_EQ(nothing.error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(nothing.original_request().file_by_filename(), "../../etc/passwd");
  EXPECT_EQ(Ask({}).error_response().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(FallbackTest, ReflectionParsesOnlyWhatIsSmall) {
  Start({"a.B"});
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "\x7a" + std::string(1, '\0');
  for (const std::string& bad : {many, std::string(5000, 'x'), std::string("\xff")}) {
    EXPECT_THAT(Call(kReflection, {bad}), HasReason(Reason::kBodyMalformed));
  }
  reflection::ServerReflectionRequest request;
  request.set_list_services("");
  std::vector<std::string> answers;
  EXPECT_TRUE(
      Call(kReflection, {request.SerializeAsString(), request.SerializeAsString()}, &answers).ok());
  EXPECT_EQ(answers.size(), 2);
}

}  // namespace
}  // namespace chord::rpc
