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
std::shared_ptr<const engine::EmbeddingBuffer> SomeEmbeddings() {
  return std::make_shared<FakeLanguageModel::Embeddings>(4);
}

class ImageCacheTest : public ::testing::Test {
 protected:
  ImageCacheTest() {
    options_.max_bytes = 100;
    options_.max_images = 3;
    options_.ttl = absl::Seconds(10);
  }
  uint64_t Use(char key, int second, bool pin = false, absl::Duration keep = {}) {
    if (!cache_) cache_.emplace(options_);
    return cache_->Use(Key(key), {4, 6}, pin, keep, At(second));
  }
  ImageCache::Options options_;
  std::optional<ImageCache> cache_;
};

TEST_F(ImageCacheTest, AKeyHasOneIdAndIdsAreNeverGivenOutTwice) {
  const uint64_t a = Use('a', 0), b = Use('b', 0);
  EXPECT_NE(a, b);
  EXPECT_EQ(Use('a', 1), a);
  EXPECT_NE(cache_->Use(Key('a'), {6, 4}, false, {}, At(1)), a) << "another grid";
  cache_->Invalidate(Key('a'));
  const uint64_t again = Use('a', 2);
  EXPECT_NE(again, a);
  EXPECT_NE(again, b);
  EXPECT_NE(cache_->NewId(), cache_->NewId());
}

TEST_F(ImageCacheTest, InvalidateReportsEveryIdWhoseKvMustGo) {
  const uint64_t a = Use('a', 0), turned = cache_->Use(Key('a'), {6, 4}, false, {}, At(0));
  Use('b', 0);
  cache_->Store(a, SomeEmbeddings(), 40);
  cache_->Invalidate(Key('a'));
  EXPECT_EQ(cache_->Embeddings(a), nullptr);
  EXPECT_EQ(cache_->bytes(), 0);
  EXPECT_THAT(cache_->TakeEvicted(), ::testing::UnorderedElementsAre(a, turned));
  EXPECT_THAT(cache_->TakeEvicted(), IsEmpty());
}

TEST_F(ImageCacheTest, EmbeddingsStayWithinTheirBytesLeastRecentlyUsedAreEvictedFirst) {
  const uint64_t a = Use('a', 0), b = Use('b', 1), c = Use('c', 2);
  cache_->Store(a, SomeEmbeddings(), 40);
  cache_->Store(b, SomeEmbeddings(), 40);
  Use('a', 3);
  cache_->Store(c, SomeEmbeddings(), 40);
  EXPECT_NE(cache_->Embeddings(a), nullptr);
  EXPECT_EQ(cache_->Embeddings(b), nullptr) << "made room";
  EXPECT_NE(cache_->Embeddings(c), nullptr);
  EXPECT_EQ(cache_->bytes(), 80);
  EXPECT_THAT(cache_->TakeEvicted(), IsEmpty()) << "its KV may stay";
  cache_->Store(b, SomeEmbeddings(), 101);
  EXPECT_EQ(cache_->Embeddings(b), nullptr) << "larger than all there is";
  EXPECT_EQ(cache_->bytes(), 80) << "nothing was evicted for it";
}

TEST_F(ImageCacheTest, PinnedImagesAreEvictedOnlyForPinnedOnes) {
  const uint64_t a = Use('a', 0, true), b = Use('b', 1);
  cache_->Store(a, SomeEmbeddings(), 80);
  cache_->Store(b, SomeEmbeddings(), 80);
  EXPECT_NE(cache_->Embeddings(a), nullptr);
  EXPECT_EQ(cache_->Embeddings(b), nullptr);
  cache_->Store(b, SomeEmbeddings(), 15);
  cache_->Store(Use('d', 2), SomeEmbeddings(), 30);
  EXPECT_NE(cache_->Embeddings(b), nullptr) << "it alone would not have been enough";
  const uint64_t c = Use('c', 2, true);
  cache_->Store(c, SomeEmbeddings(), 80);
  EXPECT_EQ(cache_->Embeddings(a), nullptr);
  EXPECT_NE(cache_->Embeddings(c), nullptr);
}

TEST_F(ImageCacheTest, ExpiresAfterItsLastUse) {
  const uint64_t a = Use('a', 0), b = Use('b', 0, false, absl::Seconds(100));
  Use('a', 8);
  cache_->Expire(At(12));
  EXPECT_THAT(cache_->TakeEvicted(), IsEmpty());
  cache_->Expire(At(19));
  EXPECT_THAT(cache_->TakeEvicted(), ElementsAre(a));
  EXPECT_NE(Use('b', 101), b) << "it expires without a sweep";
}

TEST_F(ImageCacheTest, IsBoundedInImages) {
  const uint64_t a = Use('a', 0, true), b = Use('b', 1);
  Use('c', 2);
  Use('d', 3);
  EXPECT_THAT(cache_->TakeEvicted(), ElementsAre(b));
  EXPECT_TRUE(cache_->pinned(a));
  EXPECT_EQ(cache_->images(), 3u);
}

}  // namespace
}  // namespace chord::llm_worker
