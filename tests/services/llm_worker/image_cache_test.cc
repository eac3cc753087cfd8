#include "services/llm_worker/image_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/services/llm_worker/fake_language_model.h"

namespace chord::llm_worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

absl::Time At(int seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }
std::string Key(char c) { return std::string(32, c); }
std::shared_ptr<const engine::EmbeddingBuffer> Rows() {
  return std::make_shared<FakeLanguageModel::Rows>(4);
}

class ImageCacheTest : public ::testing::Test {
 protected:
  ImageCacheTest() {
    options_.max_bytes = 100;
    options_.max_images = 3;
    options_.ttl = absl::Seconds(10);
  }
  uint64_t Use(char key, int second, bool pin = false, absl::Duration keep = {}) {
    if (!table_) table_.emplace(options_);
    return table_->Use(Key(key), {4, 6}, pin, keep, At(second));
  }
  ImageCache::Options options_;
  std::optional<ImageCache> table_;
};

TEST_F(ImageCacheTest, AKeyHasOneNumberAndNumbersAreNeverGivenTwice) {
  const uint64_t a = Use('a', 0), b = Use('b', 0);
  EXPECT_NE(a, b);
  EXPECT_EQ(Use('a', 1), a);
  EXPECT_NE(table_->Use(Key('a'), {6, 4}, false, {}, At(1)), a) << "another grid";
  table_->Drop(Key('a'));
  const uint64_t again = Use('a', 2);
  EXPECT_NE(again, a);
  EXPECT_NE(again, b);
  EXPECT_NE(table_->Nameless(), table_->Nameless());
}

TEST_F(ImageCacheTest, DropNamesAllThatIsToBeForgotten) {
  const uint64_t a = Use('a', 0), turned = table_->Use(Key('a'), {6, 4}, false, {}, At(0));
  Use('b', 0);
  table_->Keep(a, Rows(), 40);
  table_->Drop(Key('a'));
  EXPECT_EQ(table_->Embeddings(a), nullptr);
  EXPECT_EQ(table_->bytes(), 0);
  EXPECT_THAT(table_->TakeGone(), ::testing::UnorderedElementsAre(a, turned));
  EXPECT_THAT(table_->TakeGone(), IsEmpty());
}

TEST_F(ImageCacheTest, EmbeddingsStayWithinTheirBytesLeastRecentlyUsedGoFirst) {
  const uint64_t a = Use('a', 0), b = Use('b', 1), c = Use('c', 2);
  table_->Keep(a, Rows(), 40);
  table_->Keep(b, Rows(), 40);
  Use('a', 3);
  table_->Keep(c, Rows(), 40);
  EXPECT_NE(table_->Embeddings(a), nullptr);
  EXPECT_EQ(table_->Embeddings(b), nullptr) << "made room";
  EXPECT_NE(table_->Embeddings(c), nullptr);
  EXPECT_EQ(table_->bytes(), 80);
  EXPECT_THAT(table_->TakeGone(), IsEmpty()) << "its KV may stay";
  table_->Keep(b, Rows(), 101);
  EXPECT_EQ(table_->Embeddings(b), nullptr) << "larger than all there is";
  EXPECT_EQ(table_->bytes(), 80) << "nobody had to go for it";
}

TEST_F(ImageCacheTest, PinnedOnesGiveWayOnlyToPinnedOnes) {
  const uint64_t a = Use('a', 0, true), b = Use('b', 1);
  table_->Keep(a, Rows(), 80);
  table_->Keep(b, Rows(), 80);
  EXPECT_NE(table_->Embeddings(a), nullptr);
  EXPECT_EQ(table_->Embeddings(b), nullptr);
  table_->Keep(b, Rows(), 15);
  table_->Keep(Use('d', 2), Rows(), 30);
  EXPECT_NE(table_->Embeddings(b), nullptr) << "it alone would not have been enough";
  const uint64_t c = Use('c', 2, true);
  table_->Keep(c, Rows(), 80);
  EXPECT_EQ(table_->Embeddings(a), nullptr);
  EXPECT_NE(table_->Embeddings(c), nullptr);
}

TEST_F(ImageCacheTest, ExpiresAfterItsLastUse) {
  const uint64_t a = Use('a', 0), b = Use('b', 0, false, absl::Seconds(100));
  Use('a', 8);
  table_->Expire(At(12));
  EXPECT_THAT(table_->TakeGone(), IsEmpty());
  table_->Expire(At(19));
  EXPECT_THAT(table_->TakeGone(), ElementsAre(a));
  EXPECT_NE(Use('b', 101), b) << "nobody had to sweep for it to be over";
}

TEST_F(ImageCacheTest, IsBoundedInImages) {
  const uint64_t a = Use('a', 0, true), b = Use('b', 1);
  Use('c', 2);
  Use('d', 3);
  EXPECT_THAT(table_->TakeGone(), ElementsAre(b));
  EXPECT_TRUE(table_->pinned(a));
  EXPECT_EQ(table_->images(), 3u);
}

}  // namespace
}  // namespace chord::llm_worker
