// The language half of a Qwen2.5-VL model on a GPU, without a checkpoint: random weights of the
// shape of the 3B or 7B, loaded through the same path as a real one. Decode steps at several
// numbers of sequences, prefill, and loading; the times are of the host, from call to result.
//
//   cuda_decode [3b|7b|tiny] [ROUNDS] [LIBCHORD_CUDA] [CASE]
//
// One JSON line per case; CASE, part of a name, chooses among them. `floor_gb`: what a step has to
// read at least.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "common/engine/cuda/cuda_api.h"
#include "common/engine/cuda/decoder_api.h"

namespace chord::cuda {
namespace {

constexpr int kContext = 1040, kPage = 16, kSequences = 32, kAnswer = 64;

double Now() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void Require(const Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, status.message);
  std::exit(1);
}

DecoderOptions OptionsOf(const std::string& model) {
  DecoderOptions o;
  o.head_dim = 128, o.rms_norm_eps = 1e-6f, o.rope_positions = 8192;
  if (model == "7b") {
    o.layers = 28, o.hidden = 3584, o.intermediate = 18944, o.heads = 28, o.kv_heads = 4,
    o.vocab = 152064;
  } else if (model == "tiny") {
    o.layers = 2, o.hidden = 2048, o.intermediate = 11008, o.heads = 16, o.kv_heads = 2,
    o.vocab = 4096;
  } else {
    o.layers = 36, o.hidden = 2048, o.intermediate = 11008, o.heads = 16, o.kv_heads = 2,
    o.vocab = 151936;
  }
  o.kv_pages = kSequences * (kContext + kAnswer + kPage) / kPage;
  return o;
}

// Small random bf16 values that every tensor is cut from, at another offset each.
class RandomWeights {
 public:
  explicit RandomWeights(const DecoderOptions& o)
      : o_(o), bits_(int64_t{o.vocab} * o.hidden + (1 << 16)) {
    uint64_t state = 88172645463325252u;
    for (uint16_t& bits : bits_) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      // Sign, an exponent of 2^-8 .. 2^-5, seven bits of mantissa.
      bits = static_cast<uint16_t>((state & 0x8000) | ((119 + ((state >> 20) & 3)) << 7) |
                                   ((state >> 32) & 0x7f));
    }
  }
  DecoderTensors Tensors() {
    DecoderTensors t;
    t.embedding = Next(), t.final_norm = Next();
    t.head = o_.hidden == 3584 ? Next() : t.embedding;  // the 7B's head is its own matrix
    for (int i = 0; i < o_.layers; ++i) {
      LayerTensors l;
      for (Tensor* tensor :
           {&l.input_norm, &l.post_norm, &l.q_weight, &l.k_weight, &l.v_weight, &l.q_bias,
            &l.k_bias, &l.v_bias, &l.o_weight, &l.gate_weight, &l.up_weight, &l.down_weight}) {
        *tensor = Next();
      }
      layers_.push_back(l);
    }
    t.layers = layers_.data();
    return t;
  }

 private:
  Tensor Next() {
    offset_ = (offset_ + 7919 * 8) % (1 << 16);
    return {bits_.data() + offset_, Dtype::kBFloat16};
  }
  const DecoderOptions o_;
  std::vector<uint16_t> bits_;
  std::vector<LayerTensors> layers_;
  int64_t offset_ = 0;
};

double WeightGigabytes(const DecoderOptions& o) {
  const double q = double(o.heads) * o.head_dim, kv = double(o.kv_heads) * o.head_dim;
  const double layer = o.hidden * (q + 2 * kv) + q * o.hidden + 3.0 * o.hidden * o.intermediate;
  return 2e-9 * (o.layers * layer + double(o.vocab) * o.hidden);
}
double KvGigabytes(const DecoderOptions& o) {
  return 4e-9 * o.layers * kContext * o.kv_heads * o.head_dim;
}

class Bench {
 public:
  Bench(Decoder* decoder, const DecoderOptions& o, int rounds, const char* chosen)
      : decoder_(decoder), o_(o), rounds_(rounds), chosen_(chosen) {
    const int per_sequence = o.kv_pages / kSequences;
    for (int i = 0; i < kSequences; ++i) {
      pages_.emplace_back(per_sequence);
      std::iota(pages_.back().begin(), pages_.back().end(), i * per_sequence);
    }
    for (int i = 0; i < kContext + kAnswer; ++i) ids_.push_back((i * 7919 + 13) % o.vocab);
  }

  // `sequences` take `n` tokens from row `start` on; the token after the last is chosen.
  void Step(int sequences, int start, int n) {
    std::vector<int32_t> positions;
    for (int axis = 0; axis < 3; ++axis) {
      for (int i = 0; i < n; ++i) positions.push_back(start + i);
    }
    std::vector<StepChunk> chunks(sequences);
    for (int i = 0; i < sequences; ++i) {
      chunks[i].pages = pages_[i].data(), chunks[i].start = start, chunks[i].count = n;
      chunks[i].ids = ids_.data() + start, chunks[i].positions = positions.data(),
      chunks[i].logits = 1;
    }
    const std::vector<SampleRequest> requests(sequences);
    outcomes_.resize(sequences);
    Require(decoder_->StepAndSample(chunks.data(), sequences, requests.data(), outcomes_.data()),
            "step");
  }

  void Measure(const char* name, double floor_gb, const std::function<void()>& fn) {
    if (std::strstr(name, chosen_) == nullptr) return;
    std::vector<double> times;
    for (int round = -3; round < rounds_; ++round) {
      const double begin = Now();
      fn();
      if (round >= 0) times.push_back(Now() - begin);
    }
    std::sort(times.begin(), times.end());
    std::printf(
        "{\"case\": \"%s\", \"min_ms\": %.4f, \"median_ms\": %.4f, \"floor_gb\": %.3f, "
        "\"tb_per_s\": %.3f, \"id\": %d}\n",
        name, times.front(), times[times.size() / 2], floor_gb, floor_gb / times[times.size() / 2],
        outcomes_[0].id);
    std::fflush(stdout);
  }

  void Run() {
    const double weights = WeightGigabytes(o_), kv = KvGigabytes(o_);
    Measure("prefill_1039", weights, [&] { Step(1, 0, kContext - 1); });
    for (int i = 0; i < kSequences; ++i) {
      std::swap(pages_[0], pages_[i]);
      Step(1, 0, kContext);
      std::swap(pages_[0], pages_[i]);
    }
    int at = kContext;
    for (const int sequences : {1, 2, 4, 8, 16, 32}) {
      const std::string name = "decode_" + std::to_string(sequences);
      Measure(name.c_str(), weights + sequences * kv,
              [&] { Step(sequences, at = kContext + (at + 1) % 32, 1); });
    }
    Measure("draft_1_of_4_ids", weights + kv, [&] { Step(1, kContext, 4); });
    Measure("prefill_64", weights, [&] { Step(1, 0, 64); });
    Measure("prefill_256", weights, [&] { Step(1, 0, 256); });
    Measure("prefill_2080", weights, [&] { Step(2, 0, kContext); });
  }

 private:
  Decoder* const decoder_;
  const DecoderOptions o_;
  const int rounds_;
  const char* const chosen_;
  std::vector<std::vector<int32_t>> pages_;
  std::vector<int32_t> ids_;
  std::vector<SampleOutcome> outcomes_;
};

int Main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : "3b";
  const int rounds = argc > 2 ? std::max(1, std::atoi(argv[2])) : 100;
  const char* path = argc > 3 ? argv[3] : "libchord_cuda.so";
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const auto entry =
      library == nullptr ? nullptr : reinterpret_cast<Entry>(dlsym(library, kEntrySymbol));
  if (entry == nullptr || entry()->version != kApiVersion) {
    std::fprintf(stderr, "cuda_decode [3b|7b|tiny] [ROUNDS] [LIBCHORD_CUDA]\n%s\n",
                 library == nullptr ? dlerror() : "wrong version");
    return 2;
  }
  DecoderOptions options = OptionsOf(model);
  const int half = options.head_dim / 2;
  std::vector<float> rope(int64_t{options.rope_positions} * half, 0.5f);
  std::vector<int32_t> axes(half, 0);
  options.rope_cos = options.rope_sin = rope.data(), options.rope_axes = axes.data();
  RandomWeights weights(options);
  Decoder* made = nullptr;
  double begin = Now();
  Require(entry()->create_decoder(options, &made), "create");
  const std::unique_ptr<Decoder> decoder(made);
  const double created = Now();
  Require(decoder->Load(weights.Tensors(),
                        static_cast<int>(std::min(8u, std::thread::hardware_concurrency()))),
          "load");
  const double loaded = Now();
  Require(decoder->WarmUp(), "warm up");
  std::printf(
      "{\"case\": \"start\", \"create_ms\": %.1f, \"load_ms\": %.1f, \"warm_up_ms\": %.1f}\n",
      created - begin, loaded - created, Now() - loaded);
  Bench(decoder.get(), options, rounds, argc > 4 ? argv[4] : "").Run();
  return 0;
}

}  // namespace
}  // namespace chord::cuda

int main(int argc, char** argv) { return chord::cuda::Main(argc, argv); }
