// Every hard ceiling of Chord. Configuration may lower a limit, never raise it over the ceiling.
// A size from outside is compared with its limit before memory is taken from it, in the process
// that uses it, also when another of our processes sent it.
#pragma once

#include <cstdint>

namespace chord::limits {

// --- images -------------------------------------------------------------------------------
// Encoded bytes of one image. Also bounds the public unary gRPC message and the HTTP body.
inline constexpr int64_t kDefaultImageBytes = 20LL << 20;
inline constexpr int64_t kCeilingImageBytes = 64LL << 20;
// Stored width × height. 8192 × 6144 is what a phone's 50-megapixel camera writes; a progressive
// CMYK JPEG of that size needs about 550 MB to decode, so one image stays below 1 GiB whatever it
// claims.
inline constexpr int64_t kDefaultImagePixels = 8192 * 6144;
inline constexpr int64_t kCeilingImagePixels = 100'000'000;
inline constexpr int64_t kMaxImageSide = 65'500;  // px; also libjpeg's own limit
// Longer side over shorter side. Exactly 200 is accepted (the model's own rule).
inline constexpr int kMaxAspectRatio = 200;
// Data of an image that is not pixels: EXIF, XMP with a depth map or a preview, ICC, text chunks.
inline constexpr int64_t kDefaultImageMetadataBytes = 4LL << 20;
inline constexpr int64_t kCeilingImageMetadataBytes = 32LL << 20;
// Scans of a progressive JPEG; more is an attack on the decoder's time.
inline constexpr int kMaxJpegScans = 100;
// Merged image tokens of one image that a service accepts (16384 = 12.8 Mpx at factor 28).
inline constexpr int64_t kCeilingImageTokens = 16'384;

// --- text -----------------------------------------------------------------------------------
inline constexpr int64_t kDefaultPromptBytes = 4'096;  // UTF-8 bytes of one prompt
inline constexpr int64_t kCeilingPromptBytes = 65'536;
inline constexpr int kDefaultNewTokens = 512;
inline constexpr int kCeilingNewTokens = 4'096;

inline constexpr int kMaxSessionIdBytes = 64;
inline constexpr int kMaxTagBytes = 64;      // of a prompt of a batch
inline constexpr int kCeilingBatch = 1'024;  // prompts of one list
inline constexpr int kCeilingSessions = 100'000;
// Earlier turns of a conversation that are kept: pairs of prompt and answer, and their text.
inline constexpr int kMaxSessionTurns = 16;
inline constexpr int64_t kMaxSessionBytes = 64LL << 10;

// --- wire -----------------------------------------------------------------------------------
// One chunk of embeddings or of an image between our processes. gRPC's default receive limit of
// 4 MiB stays as it is on internal calls.
inline constexpr int64_t kMaxChunkBytes = 1LL << 20;
inline constexpr int64_t kMaxErrorTextBytes = 1'024;
inline constexpr int kMaxConcurrentStreams = 100;

// --- checkpoint files -------------------------------------------------------------------------
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;
inline constexpr int64_t kMaxTensors = 200'000;
inline constexpr int64_t kMaxConfigBytes = 8LL << 20;
inline constexpr int64_t kMaxTokenizerBytes = 256LL << 20;
// Ids of a vocabulary, and merges; the largest published ones have under 300,000.
inline constexpr int32_t kMaxVocabularyIds = 1 << 22;

}  // namespace chord::limits
