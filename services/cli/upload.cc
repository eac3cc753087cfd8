#include "services/cli/upload.h"

#include <grpcpp/client_context.h>

#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"

namespace chord::cli {

absl::StatusOr<std::string> UploadImage(v1::Images::Stub& images, absl::string_view bytes,
                                        absl::Time deadline) {
  grpc::ClientContext context;
  rpc::SetDeadline(context, deadline);
  v1::Image image;
  const auto writer = images.Upload(&context, &image);
  v1::UploadRequest part;
  part.mutable_start()->set_total_bytes(static_cast<int64_t>(bytes.size()));
  bool open = writer->Write(part);  // a stream that broke tells so at its end
  for (; open && !bytes.empty(); open = writer->Write(part)) {
    const absl::string_view chunk = bytes.substr(0, limits::kMaxChunkBytes);
    part.set_chunk(chunk.data(), chunk.size());
    bytes.remove_prefix(chunk.size());
  }
  writer->WritesDone();
  CHORD_RETURN_IF_ERROR(rpc::FromGrpc(writer->Finish()));
  return image.image_id();
}

}  // namespace chord::cli
