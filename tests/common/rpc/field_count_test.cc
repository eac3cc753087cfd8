#include "common/rpc/field_count.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "chord/v1/grounding.pb.h"

namespace chord::rpc {
namespace {

using namespace std::string_literals;

// In slices of three bytes, so that every value is torn somewhere.
grpc::ByteBuffer Buffer(absl::string_view bytes) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    slices.emplace_back(std::string(bytes.substr(at, 3)));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

FieldCount Count(absl::string_view bytes, int limit) {
  return CountFields(Buffer(bytes), v1::GroundListRequest::descriptor(), limit);
}

std::string Repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST(CountFields, CountsWhatAParserWouldMeet) {
  v1::GroundListRequest list;
  for (int i = 0; i < 3; ++i) {
    auto& item = *list.add_requests();
    item.set_tag("tag");
    item.mutable_request()->set_image(std::string(1000, '\xff'));
    item.mutable_request()->set_prompt("the cat");
    item.mutable_request()->set_max_new_tokens(5);
  }
  const std::string bytes = list.SerializeAsString();  // three of: item, tag, request, its three
  EXPECT_EQ(Count(bytes, 18), FieldCount::kFew);
  EXPECT_EQ(Count(bytes, 17), FieldCount::kTooMany);
  EXPECT_EQ(Count("", 0), FieldCount::kFew);
}

TEST(CountFields, FindsTheManyWhereverTheyAre) {
  const std::string many = Repeat("\x7a\0"s, 60);  // unknown, empty
  EXPECT_EQ(Count(many, 50), FieldCount::kTooMany);
  EXPECT_EQ(Count(Repeat("\x0a\0"s, 60), 50), FieldCount::kTooMany);      // known, empty
  EXPECT_EQ(Count("\x0a\x78" + many, 50), FieldCount::kTooMany);          // in an item
  EXPECT_EQ(Count("\x0a\x7a\x12\x78" + many, 50), FieldCount::kTooMany);  // in its request
  EXPECT_EQ(Count("\x7b" + many + "\x7c", 50), FieldCount::kTooMany);     // in a group
  EXPECT_EQ(Count(Repeat("\x7b\x7c"s, 60), 50), FieldCount::kTooMany);    // groups
  EXPECT_EQ(Count("\x7a\x78" + many, 50), FieldCount::kFew) << "unknown bytes stay bytes";
}

TEST(CountFields, TellsWhatIsMalformed) {
  for (const std::string& bad :
       {"\xff"s, "\x0a"s, "\x0a\x05xx"s, "\x0a\x02\x12\x05"s, "\x7b"s, "\x7c"s, "\x7b\x74"s,
        "\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"s, "\x7a\xff\xff\xff\xff\x0f"s,
        "\x02\x00"s, "\x7f"s, "\x79\1\2\3"s, Repeat("\x7b"s, 200)}) {
    EXPECT_EQ(Count(bad, 1000), FieldCount::kMalformed) << testing::PrintToString(bad);
  }
  EXPECT_EQ(CountFields(grpc::ByteBuffer(), v1::GroundListRequest::descriptor(), 10),
            FieldCount::kMalformed);
}

TEST(CountField, CountsOneFieldOfTheOutermostMessage) {
  EXPECT_EQ(CountField(Buffer(Repeat("\x0a\0"s, 60) + "\x78\1"), 1), 60);
  EXPECT_EQ(CountField(Buffer("\x0a\x02\x0a\0"s), 1), 1);
  EXPECT_EQ(CountField(Buffer("\x0a\x02\x0a"s), 1), 0);
  EXPECT_EQ(CountField(grpc::ByteBuffer(), 1), 0);
}

}  // namespace
}  // namespace chord::rpc
