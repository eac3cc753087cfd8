// CacheTier on the wire between gateway and language worker (decode.proto). Users link
// chord::proto_internal.
#pragma once

#include <optional>

#include "chord/internal/v1/decode.pb.h"
#include "common/base/cache_tier.h"

namespace chord::rpc {

// nullopt: the request has no image.
inline internal::v1::CacheTier ToProto(std::optional<CacheTier> tier) {
  if (!tier) return internal::v1::CACHE_TIER_UNSPECIFIED;
  switch (*tier) {
    case CacheTier::kNone:
      return internal::v1::CACHE_TIER_NONE;
    case CacheTier::kEmbeddings:
      return internal::v1::CACHE_TIER_EMBEDDINGS;
    case CacheTier::kKv:
      return internal::v1::CACHE_TIER_KV;
  }
  return internal::v1::CACHE_TIER_UNSPECIFIED;
}

// nullopt: unset, or a value that this version does not know.
inline std::optional<CacheTier> FromProto(internal::v1::CacheTier tier) {
  switch (tier) {
    case internal::v1::CACHE_TIER_NONE:
      return CacheTier::kNone;
    case internal::v1::CACHE_TIER_EMBEDDINGS:
      return CacheTier::kEmbeddings;
    case internal::v1::CACHE_TIER_KV:
      return CacheTier::kKv;
    default:
      return std::nullopt;
  }
}

}  // namespace chord::rpc
