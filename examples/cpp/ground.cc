// Finds things in an image over gRPC:  chord_example HOST:PORT IMAGE PROMPT [PROMPT ...]
//
// The image is uploaded once in chunks; each prompt refers to it by its handle, so the server
// encodes the image once. Answers come as streams of events, whose last is the whole answer.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include "chord/v1/grounding.grpc.pb.h"
#include "chord/v1/images.grpc.pb.h"

namespace {

constexpr std::size_t kChunkBytes = 1 << 20;  // the server takes no more at a time
constexpr std::chrono::seconds kTimeout(60);

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
}

grpc::Status Upload(chord::v1::Images::Stub& images, const std::string& file,
                    chord::v1::Image* image) {
  grpc::ClientContext context;
  SetDeadline(context);
  const auto writer = images.Upload(&context, image);
  chord::v1::UploadRequest part;
  part.mutable_start()->set_total_bytes(static_cast<std::int64_t>(file.size()));
  bool open = writer->Write(part);  // false: refused; Finish has the reason
  for (std::size_t at = 0; open && at < file.size(); at += kChunkBytes) {
    part.set_chunk(file.substr(at, kChunkBytes));
    open = writer->Write(part);
  }
  writer->WritesDone();
  return writer->Finish();
}

grpc::Status Ground(chord::v1::Grounding::Stub& grounding, const std::string& image_id,
                    const std::string& prompt) {
  chord::v1::GroundRequest request;
  request.set_image_id(image_id);
  request.set_prompt(prompt);
  grpc::ClientContext context;
  SetDeadline(context);
  const auto reader = grounding.GroundStream(&context, request);
  chord::v1::GroundEvent event;
  while (reader->Read(&event)) {
    if (!event.has_response()) continue;  // text_delta and object come before
    const chord::v1::GroundResponse& answer = event.response();
    if (answer.objects().empty()) {
      // Without a confidence the answer was cut, which says nothing about absence.
      std::cout << prompt
                << (answer.has_confidence()
                        ? ": not there (" + std::to_string(answer.confidence()) + ")\n"
                        : ": the answer was cut\n");
    }
    for (const chord::v1::Object& object : answer.objects()) {
      const chord::v1::Box& box = object.box();
      std::cout << prompt << ": " << object.label() << " at " << box.x1() << ',' << box.y1() << ','
                << box.x2() << ',' << box.y2() << " (" << object.confidence() << ")\n";
    }
  }
  return reader->Finish();
}

int Fail(const grpc::Status& status) {
  std::cerr << "chord_example: " << status.error_message() << '\n';
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: chord_example HOST:PORT IMAGE PROMPT [PROMPT ...]\n";
    return 2;
  }
  std::ifstream stream(argv[2], std::ios::binary);
  if (!stream) {
    std::cerr << "chord_example: " << argv[2] << " cannot be read\n";
    return 1;
  }
  const std::string file((std::istreambuf_iterator<char>(stream)), {});

  const auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  const auto images = chord::v1::Images::NewStub(channel);
  const auto grounding = chord::v1::Grounding::NewStub(channel);

  chord::v1::Image image;
  if (const grpc::Status status = Upload(*images, file, &image); !status.ok()) return Fail(status);
  for (int i = 3; i < argc; ++i) {
    const grpc::Status status = Ground(*grounding, image.image_id(), argv[i]);
    if (!status.ok()) return Fail(status);
  }
  return 0;
}
