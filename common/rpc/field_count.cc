#include "common/rpc/field_count.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

namespace chord::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 100;  // the parser's own

class Counter {
 public:
  Counter(CodedInputStream& in, int limit) : in_(in), left_(limit) {}

  // Up to the end of the message, or of the group of that number.
  FieldCount Message(const Descriptor* type, int depth, int group = 0) {
    if (depth > kMaxDepth) return FieldCount::kMalformed;
    while (const uint32_t tag = in_.ReadTag()) {
      if (--left_ < 0) return FieldCount::kTooMany;
      const int number = WireFormatLite::GetTagFieldNumber(tag);
      bool ok = number > 0;
      switch (WireFormatLite::GetTagWireType(tag)) {
        case WireFormatLite::WIRETYPE_VARINT: {
          uint64_t ignored;
          ok = ok && in_.ReadVarint64(&ignored);
          break;
        }
        case WireFormatLite::WIRETYPE_FIXED64:
          ok = ok && in_.Skip(8);
          break;
        case WireFormatLite::WIRETYPE_FIXED32:
          ok = ok && in_.Skip(4);
          break;
        case WireFormatLite::WIRETYPE_LENGTH_DELIMITED: {
          uint32_t length = 0;
          ok = ok && in_.ReadVarint32(&length) && length <= (1u << 30);
          if (!ok) break;
          const FieldDescriptor* field =
              type == nullptr ? nullptr : type->FindFieldByNumber(number);
          if (field == nullptr || field->type() != FieldDescriptor::TYPE_MESSAGE) {
            ok = in_.Skip(static_cast<int>(length));
            break;
          }
          const int room = in_.BytesUntilLimit();  // of the message around it; -1: the outermost
          ok = room < 0 || static_cast<int>(length) <= room;
          if (!ok) break;
          const auto outer = in_.PushLimit(static_cast<int>(length));
          const FieldCount inner = Message(field->message_type(), depth + 1);
          ok = in_.BytesUntilLimit() == 0;
          in_.PopLimit(outer);
          if (inner != FieldCount::kFew) return inner;
          break;
        }
        case WireFormatLite::WIRETYPE_START_GROUP:
          if (const FieldCount inner = Message(nullptr, depth + 1, number);
              inner != FieldCount::kFew) {
            return inner;
          }
          break;
        case WireFormatLite::WIRETYPE_END_GROUP:
          return number == group ? FieldCount::kFew : FieldCount::kMalformed;
        default:
          ok = false;
      }
      if (!ok) return FieldCount::kMalformed;
    }
    return group == 0 && in_.ConsumedEntireMessage() ? FieldCount::kFew : FieldCount::kMalformed;
  }

 private:
  CodedInputStream& in_;
  int left_;
};

}  // namespace

FieldCount CountFields(grpc::ByteBuffer bytes, const Descriptor* type, int limit) {
  if (!bytes.Valid()) return FieldCount::kMalformed;
  grpc::ProtoBufferReader reader(&bytes);
  CodedInputStream in(&reader);
  return Counter(in, limit).Message(type, 0);
}

int CountField(grpc::ByteBuffer bytes, int number) {
  if (!bytes.Valid()) return 0;
  grpc::ProtoBufferReader reader(&bytes);
  CodedInputStream in(&reader);
  int count = 0;
  while (const uint32_t tag = in.ReadTag()) {
    count += WireFormatLite::GetTagFieldNumber(tag) == number ? 1 : 0;
    // Unknown groups are not counted into, only skipped.
    if (!WireFormatLite::SkipField(&in, tag)) return 0;
  }
  return in.ConsumedEntireMessage() ? count : 0;
}

}  // namespace chord::rpc
