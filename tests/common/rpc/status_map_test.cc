#include "common/rpc/status_map.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"

namespace chord::rpc {
namespace {

TEST(StatusMapTest, CataloguedErrorsSurviveTheWire) {
  const absl::Status sent = errors::Overloaded(absl::Milliseconds(1500));
  const absl::Status got = FromGrpc(ToGrpc(sent, "req_1"));
  EXPECT_EQ(got.code(), sent.code());
  EXPECT_EQ(got.message(), sent.message());
  EXPECT_EQ(ErrorReason(got), "OVERLOADED");
  EXPECT_EQ(RetryAfter(got), absl::Milliseconds(1500));
}

TEST(StatusMapTest, TransportFailuresAreNotCatalogued) {
  const absl::Status got = FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed"));
  EXPECT_EQ(got.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(IsCatalogued(got));
}

TEST(StatusMapTest, LibraryTextIsReplaced) {
  EXPECT_EQ(ToGrpc(absl::InternalError("at::Tensor 0x55")).error_message().find("0x"),
            std::string::npos);
}

TEST(StatusMapTest, GarbageDetailsAreIgnored) {
  const absl::Status got =
      FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "x", std::string("\x01\x02\xff", 3)));
  EXPECT_EQ(got.code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace chord::rpc
