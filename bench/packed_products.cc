// The products of a decoder's layers from weights of every format, against two floors measured in
// the same run: how fast these threads read memory, and how fast they multiply from registers.
//
//   packed_products [SHAPE [THREADS [LAYERS [ROUNDS [FORMATS]]]]]
//
// SHAPE: 3b (default), 7b or nano. FORMATS: comma-separated, of bf16, fp32, int8, int4-32, int4-64,
// int4-128. One JSON line for each format and number of rows: the least and the median time of a
// layer's seven products, the weights' bytes a second as a share of the read bandwidth, and the
// multiply-adds a second (two operations each) as a share of the peak of the type that multiplies.
// Layers are random, each in memory of its own, so that none stays in a cache.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/engine/backend.h"
#include "common/engine/cpu/thread_pool.h"
#include "common/engine/device.h"
#include "common/engine/packed/pack_weights.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace chord {
namespace {

using engine::LinearLayer;
using engine::Mat;
using model::DType;

// With one thread the processor time, which tells on a busy machine too; else the wall's.
bool one_thread = false;

double Seconds() {
  if (one_thread) {
    timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The least time of `rounds` runs of fn, and the median.
struct Time {
  double least, median;
};
Time Measure(int rounds, const std::function<void()>& fn) {
  fn();
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) {
    const double began = Seconds();
    fn();
    times.push_back(Seconds() - began);
  }
  std::sort(times.begin(), times.end());
  return {times.front(), times[times.size() / 2]};
}

// --- floors
// ---------------------------------------------------------------------------------------

volatile int64_t sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) int64_t ReadAvx512(const char* p, int64_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (int64_t i = 0; i < bytes; i += 256) {
    _mm_prefetch(p + i + 4096, _MM_HINT_T0);
    _mm_prefetch(p + i + 4160, _MM_HINT_T0);
    _mm_prefetch(p + i + 4224, _MM_HINT_T0);
    _mm_prefetch(p + i + 4288, _MM_HINT_T0);
    a = _mm512_or_si512(a, _mm512_loadu_si512(p + i));
    b = _mm512_or_si512(b, _mm512_loadu_si512(p + i + 64));
    c = _mm512_or_si512(c, _mm512_loadu_si512(p + i + 128));
    d = _mm512_or_si512(d, _mm512_loadu_si512(p + i + 192));
  }
  int64_t lanes[8];
  _mm512_storeu_si512(lanes, _mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)));
  return lanes[0] | lanes[7];
}

constexpr int kSums = 12;

__attribute__((target("avx512f,avx512vnni"))) void MultiplyVnni(int64_t steps) {
  __m512i sum[kSums], u = _mm512_set1_epi32(static_cast<int>(steps));
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sum[s] = _mm512_dpbusd_epi32(sum[s], u, u);
  }
  for (int s = 1; s < kSums; ++s) sum[0] = _mm512_add_epi32(sum[0], sum[s]);
  int32_t lanes[16];
  _mm512_storeu_si512(lanes, sum[0]);
  sink = lanes[0];
}

__attribute__((target("avx512f"))) void MultiplyFloat(int64_t steps) {
  __m512 sum[kSums], u = _mm512_set1_ps(1e-9f * static_cast<float>(steps));
  for (__m512& s : sum) s = _mm512_setzero_ps();
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sum[s] = _mm512_fmadd_ps(sum[s], u, u);
  }
  for (int s = 1; s < kSums; ++s) sum[0] = _mm512_add_ps(sum[0], sum[s]);
  float lanes[16];
  _mm512_storeu_ps(lanes, sum[0]);
  sink = static_cast<int64_t>(lanes[0]);
}
#endif

struct Floors {
  double read = 0;       // bytes a second
  double int8_peak = 0;  // operations a second; 0: not measured on this processor
  double float_peak = 0;
};

Floors MeasureFloors() {
  Floors floors;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512f")) return floors;
  engine::ThreadPool& pool = engine::CpuThreads();
  constexpr int64_t kBytes = int64_t{512} << 20, kTask = int64_t{1} << 20;
  engine::PackedHeader header;  // its memory is that of weights
  header.outputs = 64 * 512;
  header.inputs = kBytes / header.outputs;
  header.group = 512;
  const auto memory = engine::PackedMatrix::Allocate(header);
  const auto* data = reinterpret_cast<const char*>(memory->view().weights);
  std::memset(const_cast<char*>(data), 1, kBytes);
  floors.read = kBytes / Measure(7, [&] {
                           pool.Run(kBytes / kTask, [&](int64_t task, int) {
                             sink = ReadAvx512(data + task * kTask, kTask);
                           });
                         }).least;
  constexpr int64_t kSteps = 2'000'000;
  const int threads = pool.threads();
  const auto peak = [&](void (*multiply)(int64_t), int per_lane) {
    const Time time =
        Measure(5, [&] { pool.Run(4 * threads, [&](int64_t, int) { multiply(kSteps / 4); }); });
    return 2.0 * 16 * per_lane * kSums * kSteps * threads / time.least;
  };
  if (__builtin_cpu_supports("avx512vnni")) floors.int8_peak = peak(MultiplyVnni, 4);
  floors.float_peak = peak(MultiplyFloat, 1);
#endif
  return floors;
}

// --- layers
// ---------------------------------------------------------------------------------------

struct Shape {
  const char* name;
  int64_t hidden, kv, inner;
  int layers;
};
constexpr Shape kShapes[] = {
    {"3b", 2048, 256, 11008, 36}, {"7b", 3584, 512, 18944, 28}, {"nano", 256, 128, 768, 8}};

struct Layer {
  LinearLayer q, k, v, o, gate, up, down;
};

// Random bf16 values of about the size of a trained matrix's.
std::vector<uint16_t> RandomBf16(int64_t count, uint32_t seed) {
  std::vector<uint16_t> values(count);
  std::mt19937 random(seed);
  for (uint16_t& value : values) {
    const float f = (static_cast<float>(random() & 0xFFFF) - 32767.5f) * 1e-6f;
    uint32_t bits;
    std::memcpy(&bits, &f, sizeof(bits));
    value = static_cast<uint16_t>(bits >> 16);
  }
  return values;
}

class Bench {
 public:
  Bench(const Shape& shape, int layers, int rounds, const Floors& floors)
      : shape_(shape), layers_(layers), rounds_(rounds), floors_(floors) {
    backend_ = engine::Backend::Create(engine::Device{}, DType::kFloat32);
  }

  absl::Status Run(const std::string& format) {
    CHORD_RETURN_IF_ERROR(MakeLayers(format));
    for (const int64_t rows : {1, 4, 16, 128, 512}) Step(format, rows);
    stack_.clear();
    stored_.clear();
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<LinearLayer> Make(const std::string& format, int64_t out, int64_t in) {
    LinearLayer layer;
    std::vector<uint16_t> values = RandomBf16(out * in, ++seed_);
    if (format == "bf16") {
      stored_.push_back(std::move(values));
      layer.weight = {reinterpret_cast<std::byte*>(stored_.back().data()), DType::kBFloat16, out,
                      in, in};
      bytes_ += 2 * out * in;
      return layer;
    }
    const model::TensorView tensor{DType::kBFloat16,
                                   {out, in},
                                   reinterpret_cast<const std::byte*>(values.data()),
                                   2 * out * in};
    CHORD_ASSIGN_OR_RETURN(const engine::WeightFormat packed, engine::ParseWeightFormat(format));
    CHORD_ASSIGN_OR_RETURN(layer.packed, engine::PackWeights(tensor, out, in, packed));
    bytes_ += static_cast<int64_t>(layer.packed->blob().size());
    return layer;
  }

  absl::Status MakeLayers(const std::string& format) {
    bytes_ = 0;
    stack_.resize(layers_);
    double packing = 0;
    for (Layer& l : stack_) {
      const double began = Seconds();
      const struct {
        LinearLayer* layer;
        int64_t out, in;
      } all[] = {{&l.q, shape_.hidden, shape_.hidden},   {&l.k, shape_.kv, shape_.hidden},
                 {&l.v, shape_.kv, shape_.hidden},       {&l.o, shape_.hidden, shape_.hidden},
                 {&l.gate, shape_.inner, shape_.hidden}, {&l.up, shape_.inner, shape_.hidden},
                 {&l.down, shape_.hidden, shape_.inner}};
      weights_ = 0;
      for (const auto& part : all) {
        CHORD_ASSIGN_OR_RETURN(*part.layer, Make(format, part.out, part.in));
        weights_ += part.out * part.in;
      }
      packing += Seconds() - began;
    }
    std::printf("{\"format\": \"%s\", \"bits_a_weight\": %.3f, \"make_s_a_layer\": %.3f}\n",
                format.c_str(), 8.0 * static_cast<double>(bytes_) / layers_ / weights_,
                packing / layers_);
    return absl::OkStatus();
  }

  void Step(const std::string& format, int64_t rows) {
    const auto make = [&](int64_t cols) {
      return backend_->AllocateOwned(rows, cols, DType::kFloat32);
    };
    const auto x = make(shape_.hidden), q = make(shape_.hidden), k = make(shape_.kv),
               v = make(shape_.kv), h = make(shape_.hidden), inner = make(shape_.inner);
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * shape_.hidden; ++i) {
      reinterpret_cast<float*>(x.mat.data)[i] = normal(random);
    }
    const Time time = Measure(rows > 64 ? std::max(2, rounds_ / 5) : rounds_, [&] {
      for (const Layer& l : stack_) {
        const engine::Backend::LinearJob jobs[] = {{&l.q, q.mat}, {&l.k, k.mat}, {&l.v, v.mat}};
        backend_->Linear(x.mat, jobs, /*add=*/false);
        backend_->Linear(q.mat, l.o, h.mat);
        backend_->GatedLinear(x.mat, l.gate, l.up, inner.mat);
        backend_->Linear(inner.mat, l.down, h.mat);
      }
    });
    const double layer = time.least / layers_;
    const double bandwidth = static_cast<double>(bytes_) / time.least;
    const double operations = 2.0 * static_cast<double>(weights_ * rows) / layer;
    const double peak = format == "bf16" ? floors_.float_peak : floors_.int8_peak;
    std::printf(
        "{\"format\": \"%s\", \"rows\": %d, \"layer_ms\": %.3f, \"layer_ms_median\": %.3f, "
        "\"all_layers_ms\": %.1f, \"gb_s\": %.1f, \"of_read\": %.2f, \"gop_s\": %.0f, "
        "\"of_peak\": %.2f}\n",
        format.c_str(), static_cast<int>(rows), layer * 1e3, time.median / layers_ * 1e3,
        layer * 1e3 * shape_.layers, bandwidth / 1e9,
        floors_.read > 0 ? bandwidth / floors_.read : 0, operations / 1e9,
        peak > 0 ? operations / peak : 0);
    std::fflush(stdout);
  }

  const Shape shape_;
  const int layers_, rounds_;
  const Floors floors_;
  std::unique_ptr<engine::Backend> backend_;
  std::vector<Layer> stack_;
  std::vector<std::vector<uint16_t>> stored_;
  int64_t bytes_ = 0;    // of all layers
  int64_t weights_ = 0;  // of one layer
  uint32_t seed_ = 0;
};

int Main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "3b";
  int threads = 0, layers = 4, rounds = 20;
  const auto shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                  [&](const Shape& s) { return name == s.name; });
  if (shape == std::end(kShapes) || (argc > 2 && !absl::SimpleAtoi(argv[2], &threads)) ||
      (argc > 3 && (!absl::SimpleAtoi(argv[3], &layers) || layers < 1)) ||
      (argc > 4 && (!absl::SimpleAtoi(argv[4], &rounds) || rounds < 1))) {
    std::fprintf(stderr, "packed_products [3b|7b|nano [THREADS [LAYERS [ROUNDS [FORMATS]]]]]\n");
    return 2;
  }
  absl::Status status = engine::InitEngine(threads);
  one_thread = engine::CpuThreads().threads() == 1;
  const Floors floors = status.ok() ? MeasureFloors() : Floors{};
  std::printf(
      "{\"threads\": %d, \"kernels\": \"%s\", \"read_gb_s\": %.1f, \"int8_gop_s\": %.0f, "
      "\"fp32_gflop_s\": %.0f}\n",
      engine::CpuThreads().threads(), std::string(engine::PackedInstructionSet()).c_str(),
      floors.read / 1e9, floors.int8_peak / 1e9, floors.float_peak / 1e9);
  const std::string formats = argc > 5 ? argv[5] : "bf16,int8,int4-32,int4-64,int4-128";
  Bench bench(*shape, layers, rounds, floors);
  for (absl::string_view format : absl::StrSplit(formats, ',')) {
    if (status.ok()) status = bench.Run(std::string(format));
  }
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace chord

int main(int argc, char** argv) { return chord::Main(argc, argv); }
