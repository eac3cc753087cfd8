#include "services/llm_worker/embedding_receiver.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "common/base/crc32c.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "tests/support/has_reason.h"

namespace chord::llm_worker {
namespace {

constexpr int64_t kRows = 4;
constexpr int32_t kWidth = 8;
constexpr int64_t kBytes = kRows * kWidth * 4;

class Rows : public engine::EmbeddingBuffer {
 public:
  explicit Rows(std::string* into) : into_(into) {}
  absl::Status Write(int64_t offset, absl::Span<const std::byte> data) override {
    if (offset != static_cast<int64_t>(into_->size())) return absl::InternalError("order");
    into_->append(reinterpret_cast<const char*>(data.data()), data.size());
    float value;
    for (size_t i = 0; i + 4 <= data.size(); i += 4) {
      std::memcpy(&value, data.data() + i, 4);
      if (!(value - value == 0)) return errors::EmbeddingNotFinite();
    }
    return absl::OkStatus();
  }
  int64_t rows() const override { return kRows; }

 private:
  std::string* into_;
};

class EmbeddingReceiverTest : public ::testing::Test {
 protected:
  void Reserve() {
    ticket_ = std::make_shared<Reservation>("t", EmbeddingShape{{4, 4}, kRows, kWidth, "m"},
                                            absl::InfiniteFuture(), source_);
  }
  PushHeader Header() const { return {"m", {4, 4}, kRows, kWidth, model::DType::kFloat32, kBytes}; }
  absl::StatusOr<std::unique_ptr<EmbeddingReceiver>> Begin(const PushHeader& header) {
    return EmbeddingReceiver::Begin(
        ticket_, header,
        [this](int64_t rows,
               model::DType) -> absl::StatusOr<std::unique_ptr<engine::EmbeddingBuffer>> {
          ++allocations_;
          return std::make_unique<Rows>(&got_);
        });
  }
  absl::Status Chunk(EmbeddingReceiver& receiver, int64_t offset, const std::string& data) {
    return receiver.Chunk(offset, data, Crc32c(data));
  }
  std::string RequestsEnd() { return ErrorReason(source_.token().Check()); }

  CancelSource source_;
  std::shared_ptr<Reservation> ticket_;
  int allocations_ = 0;
  std::string got_;
};

TEST_F(EmbeddingReceiverTest, CollectsChunksAndHandsThemOver) {
  Reserve();
  auto receiver = Begin(Header());
  ASSERT_TRUE(receiver.ok()) << receiver.status();
  EXPECT_EQ(allocations_, 0) << "no memory before the first chunk";
  const std::string bytes(kBytes, '\x01');
  ASSERT_TRUE(Chunk(**receiver, 0, bytes.substr(0, 7)).ok());
  ASSERT_TRUE(Chunk(**receiver, 7, bytes.substr(7)).ok());
  EXPECT_TRUE((*receiver)->has_all());
  ASSERT_TRUE((*receiver)->Finish().ok());
  EXPECT_EQ(got_, bytes);
  EXPECT_EQ(ticket_->state(), TicketState::kComplete);
  EXPECT_FALSE(ticket_->token().cancelled());
}

struct Forgery {
  const char* name;
  void (*change)(PushHeader&);
  const char* reason;
};

TEST_F(EmbeddingReceiverTest, RefusesEveryForgedHeaderBeforeMemoryIsTaken) {
  const int64_t huge = std::numeric_limits<int64_t>::max();
  const Forgery forgeries[] = {
      {"another model", [](PushHeader& h) { h.model_fingerprint = "x"; }, "MODEL_MISMATCH"},
      {"grid 0",
       [](PushHeader& h) {
         h.grid = {0, 0};
       },
       "EMBEDDING_MISMATCH"},
      {"sides swapped",
       [](PushHeader& h) {
         h.grid = {2, 8};
       },
       "EMBEDDING_MISMATCH"},
      {"huge grid",
       [](PushHeader& h) {
         h.grid = {1 << 30, 1 << 30};
       },
       "EMBEDDING_MISMATCH"},
      {"a row more", [](PushHeader& h) { h.rows++; }, "EMBEDDING_MISMATCH"},
      {"a row less", [](PushHeader& h) { h.rows--; }, "EMBEDDING_MISMATCH"},
      {"no rows", [](PushHeader& h) { h.rows = 0; }, "EMBEDDING_MISMATCH"},
      {"negative rows", [](PushHeader& h) { h.rows = -4; }, "EMBEDDING_MISMATCH"},
      {"another width", [](PushHeader& h) { h.width = 9; }, "EMBEDDING_MISMATCH"},
      {"integers", [](PushHeader& h) { h.dtype = model::DType::kInt64; }, "EMBEDDING_MISMATCH"},
      {"no dtype", [](PushHeader& h) { h.dtype = model::DType::kOther; }, "EMBEDDING_MISMATCH"},
      {"bytes of another dtype", [](PushHeader& h) { h.dtype = model::DType::kBFloat16; },
       "EMBEDDING_MISMATCH"},
      {"a byte more", [](PushHeader& h) { h.total_bytes++; }, "EMBEDDING_MISMATCH"},
      {"a byte less", [](PushHeader& h) { h.total_bytes--; }, "EMBEDDING_MISMATCH"},
      {"no bytes", [](PushHeader& h) { h.total_bytes = 0; }, "EMBEDDING_MISMATCH"},
  };
  for (const Forgery& forgery : forgeries) {
    source_ = CancelSource();
    Reserve();
    PushHeader header = Header();
    forgery.change(header);
    auto receiver = Begin(header);
    EXPECT_EQ(ErrorReason(receiver.status()), forgery.reason) << forgery.name;
    EXPECT_EQ(RequestsEnd(), forgery.reason) << forgery.name;
    EXPECT_EQ(ticket_->state(), TicketState::kCancelled) << forgery.name;
    EXPECT_EQ(allocations_, 0) << forgery.name;
  }
  PushHeader header = Header();
  header.rows = header.total_bytes = huge;
  EXPECT_FALSE(CheckHeader(header, {{4, 4}, huge, kWidth, "m"}).ok()) << "the product overflows";
}

TEST_F(EmbeddingReceiverTest, RefusesASecondPushAndLeavesTheFirstAlone) {
  Reserve();
  auto first = Begin(Header());
  ASSERT_TRUE(first.ok());
  EXPECT_THAT(Begin(Header()).status(), HasReason(Reason::kTicketReused));
  EXPECT_TRUE(Chunk(**first, 0, std::string(kBytes, '\0')).ok());
  EXPECT_TRUE((*first)->Finish().ok());
}

TEST_F(EmbeddingReceiverTest, RefusesBadChunksAndEndsTheRequestWithTheSameReason) {
  struct Case {
    const char* name;
    int64_t offset;
    std::string data;
    bool good_checksum;
    const char* reason;
  };
  std::string nan(kBytes, '\0');
  const float value = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(nan.data() + 16, &value, 4);
  const Case cases[] = {
      {"a gap", 4, std::string(4, 'x'), true, "EMBEDDING_MISMATCH"},
      {"before the start", -4, std::string(4, 'x'), true, "EMBEDDING_MISMATCH"},
      {"empty", 0, "", true, "EMBEDDING_MISMATCH"},
      {"more than announced", 0, std::string(kBytes + 1, 'x'), true, "EMBEDDING_MISMATCH"},
      {"over the chunk limit", 0, std::string(limits::kMaxChunkBytes + 1, 'x'), true,
       "EMBEDDING_MISMATCH"},
      {"damaged", 0, std::string(kBytes, 'x'), false, "EMBEDDING_MISMATCH"},
      {"not finite", 0, nan, true, "EMBEDDING_NOT_FINITE"},
  };
  for (const Case& c : cases) {
    source_ = CancelSource();
    got_.clear();
    Reserve();
    auto receiver = Begin(Header());
    ASSERT_TRUE(receiver.ok());
    const uint32_t crc = Crc32c(c.data) + (c.good_checksum ? 0 : 1);
    EXPECT_EQ(ErrorReason((*receiver)->Chunk(c.offset, c.data, crc)), c.reason) << c.name;
    EXPECT_EQ(RequestsEnd(), c.reason) << c.name;
    EXPECT_EQ(ticket_->state(), TicketState::kCancelled) << c.name;
  }
}

TEST_F(EmbeddingReceiverTest, RefusesAChunkThatComesTwice) {
  Reserve();
  auto receiver = Begin(Header());
  ASSERT_TRUE(Chunk(**receiver, 0, std::string(8, '\0')).ok());
  EXPECT_THAT(Chunk(**receiver, 0, std::string(8, '\0')), HasReason(Reason::kEmbeddingMismatch));
}

TEST_F(EmbeddingReceiverTest, MissingBytesEndTheRequest) {
  Reserve();
  auto receiver = Begin(Header());
  ASSERT_TRUE(Chunk(**receiver, 0, std::string(kBytes - 1, '\0')).ok());
  EXPECT_THAT((*receiver)->Finish(), HasReason(Reason::kEmbeddingMismatch));
  EXPECT_EQ(RequestsEnd(), "EMBEDDING_MISMATCH");
}

TEST_F(EmbeddingReceiverTest, AWriterThatVanishesEndsTheRequest) {
  Reserve();
  auto receiver = Begin(Header());
  (*receiver)->Abort(errors::WorkerLost("vision"));
  EXPECT_EQ(RequestsEnd(), "WORKER_LOST");
  EXPECT_EQ(ticket_->state(), TicketState::kCancelled);
}

TEST_F(EmbeddingReceiverTest, StopsAtTheNextChunkOfACancelledTicket) {
  Reserve();
  auto receiver = Begin(Header());
  ASSERT_TRUE(Chunk(**receiver, 0, std::string(8, '\0')).ok());
  ticket_->Cancel(errors::Cancelled());
  EXPECT_EQ(ticket_->state(), TicketState::kCancelPending);
  EXPECT_THAT(Chunk(**receiver, 8, std::string(8, '\0')), HasReason(Reason::kCancelled));
  EXPECT_EQ(ticket_->state(), TicketState::kCancelled);
}

}  // namespace
}  // namespace chord::llm_worker
