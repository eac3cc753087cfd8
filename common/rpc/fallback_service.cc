#include "common/rpc/fallback_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/rpc/call.h"
#include "common/rpc/raw_message.h"
#include "common/rpc/status_map.h"
#include "grpc/reflection/v1/reflection.pb.h"
#include "grpc/reflection/v1alpha/reflection.pb.h"

namespace chord::rpc {
namespace {

namespace reflection = grpc::reflection::v1;
using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;
using grpc::ByteBuffer;

constexpr size_t kMaxRequestBytes = 4 << 10;
constexpr int kMaxRequestFields = 16;

// A file and all that it imports, each once.
void AddFile(const FileDescriptor& file, std::set<const FileDescriptor*>& seen,
             reflection::FileDescriptorResponse& out) {
  if (!seen.insert(&file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  out.add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) AddFile(*file.dependency(i), seen, out);
}

void FillResponse(const reflection::ServerReflectionRequest& request,
                  const std::vector<std::string>& services,
                  reflection::ServerReflectionResponse& response) {
  using Request = reflection::ServerReflectionRequest;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  const FileDescriptor* file = nullptr;
  switch (request.message_request_case()) {
    case Request::kListServices:
      for (const std::string& name : services) {
        response.mutable_list_services_response()->add_service()->set_name(name);
      }
      return;
    case Request::kFileByFilename:
      file = pool.FindFileByName(request.file_by_filename());
      break;
    case Request::kFileContainingSymbol:
      file = pool.FindFileContainingSymbol(request.file_containing_symbol());
      break;
    case Request::kAllExtensionNumbersOfType:  // our messages have none
      if (pool.FindMessageTypeByName(request.all_extension_numbers_of_type()) == nullptr) break;
      response.mutable_all_extension_numbers_response()->set_base_type_name(
          request.all_extension_numbers_of_type());
      return;
    case Request::kFileContainingExtension:
      break;
    default:
      response.mutable_error_response()->set_error_code(grpc::StatusCode::UNIMPLEMENTED);
      response.mutable_error_response()->set_error_message("This kind of request is not known.");
      return;
  }
  if (file == nullptr) {
    response.mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
    response.mutable_error_response()->set_error_message("There is nothing of that name.");
    return;
  }
  std::set<const FileDescriptor*> seen;
  AddFile(*file, seen, *response.mutable_file_descriptor_response());
}

// One request at a time, one response for each.
class Reflection final : public ServerCall<grpc::ServerGenericBidiReactor> {
 public:
  explicit Reflection(const std::vector<std::string>& services)
      : ServerCall(absl::InfiniteFuture(), absl::InfiniteDuration()), services_(services) {}

  void OnReadDone(bool ok) override {
    if (!ok) return (void)End(absl::OkStatus());
    reflection::ServerReflectionRequest request;
    if (read_.Length() > kMaxRequestBytes ||
        ParseRaw(&read_, kMaxRequestFields, &request) != FieldCount::kFew) {
      return (void)End(errors::BodyMalformed("a ServerReflectionRequest of at most 4 KiB"));
    }
    reflection::ServerReflectionResponse response;
    FillResponse(request, services_, response);
    write_ = SerializeRaw(response);
    Write(&write_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return (void)End(errors::Cancelled());
    ReadNext();
  }

 private:
  void Begin() override { ReadNext(); }
  void OnEnd(const absl::Status& status) override { Finish(ToGrpc(status, NewRequestId())); }
  void ReadNext() {
    read_.Clear();
    StartUnlessEnded([this] { StartRead(&read_); });
  }

  const std::vector<std::string>& services_;
  ByteBuffer read_, write_;
};

}  // namespace

Fallback::Fallback(std::vector<std::string> reflect) : reflect_(std::move(reflect)) {
  // Not used otherwise, and so not linked: tools ask for the description of v1alpha, too.
  grpc::reflection::v1alpha::ServerReflectionRequest::descriptor();
}

grpc::ServerGenericBidiReactor* Fallback::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  absl::string_view method = context->method();
  if (!reflect_.empty() && (method == "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" ||
                            method == "/grpc.reflection.v1alpha.ServerReflection/"
                                      "ServerReflectionInfo")) {
    return StartCall<Reflection>(nullptr, reflect_);
  }
  return EndCall<grpc::ServerGenericBidiReactor>(errors::CallUnknown());
}

}  // namespace chord::rpc
