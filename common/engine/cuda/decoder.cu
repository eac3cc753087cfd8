// The decoder: weights, pages, and steps in three forms. Up to kFewTokens tokens: memory-bound
// products that overlap at their borders, as a graph per number of tokens. Up to kGraphTokens: the
// kernels of a large step, as a graph per bucket. More: the same kernels, launched one by one.
#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "common/engine/cuda/decoder_api.h"
#include "common/engine/cuda/gemm.h"
#include "common/engine/cuda/id_sets.h"
#include "common/engine/cuda/kernels.h"
#include "common/engine/cuda/memory.h"
#include "common/engine/cuda/step_plan.h"
#include "common/engine/cuda/weights.h"

namespace chord::cuda {
namespace {

constexpr int kGraphTokens = 64;
constexpr int kHeadRows = 64;    // rows of logits at once
constexpr int kMlpRows = 4096;   // rows through the MLP at once; bounds its working memory
constexpr int kMaxWidth = 8192;  // of AddNorm
constexpr int kRowGranule = 16;  // rows of a product are rounded up to a multiple

int RoundUp(int value, int to) { return (value + to - 1) / to * to; }

// Working memory of one step: rows on their way through the layers.
struct Workspace {
  Workspace() = default;
  Workspace(const DecoderOptions& o, int rows, int logit_rows) : rows(rows) {
    const int64_t n = rows, m = std::min(rows, kMlpRows);
    const int64_t q = static_cast<int64_t>(o.heads) * o.head_dim,
                  kv = static_cast<int64_t>(o.kv_heads) * o.head_dim;
    hidden = Elements(n * o.hidden);
    normed = Elements(n * o.hidden);
    delta = Elements(n * o.hidden);
    picked = Elements(static_cast<int64_t>(logit_rows) * o.hidden);
    qkv = Elements(n * (q + 2 * kv));
    queries = Elements(n * q);
    attended = Elements(n * q);
    picked_attended = Elements(static_cast<int64_t>(logit_rows) * q);
    if (o.kv_int8) keys = Elements(n * kv), values = Elements(n * kv);
    gate_up = Elements(m * 2 * o.intermediate);
    inner = Elements(m * o.intermediate);
  }
  int rows = 0;
  Elements hidden, normed, delta, picked, qkv, queries, attended, picked_attended, keys, values;
  Elements gate_up, inner;
};

// A layer's weights as the products of few rows take them.
struct LayerMatrices {
  Weight qkv, o, gate_up, down;
};

// Where attention leaves the parts of a cut context.
struct AttentionMemory {
  void Reserve(int64_t floats, int64_t counts, const Stream& stream) {
    if (floats > partial.count()) partial = DeviceArray<float>(floats);
    if (counts > counters.count()) {
      counters = DeviceArray<unsigned>(counts);
      CHORD_CUDA_CHECK(cudaMemsetAsync(counters.get(), 0, counters.bytes(), stream.get()));
    }
  }
  DeviceArray<float> partial;
  DeviceArray<unsigned> counters;
};

class Graph {
 public:
  Graph() = default;
  ~Graph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  bool empty() const { return executable_ == nullptr; }
  template <typename Fn>
  void Capture(const Stream& stream, Fn&& fn) {
    cudaGraph_t graph = nullptr;
    CHORD_CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
    try {
      fn();
    } catch (...) {
      cudaStreamEndCapture(stream.get(), &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    CHORD_CUDA_CHECK(cudaStreamEndCapture(stream.get(), &graph));
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    CHORD_CUDA_CHECK(error);
  }
  void Launch(const Stream& stream) {
    CHORD_CUDA_CHECK(cudaGraphLaunch(executable_, stream.get()));
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

// What copies embeddings to the device: one stream and one pinned buffer for all of them. Memory
// comes from the device's pool, so that taking and returning it stops no step.
class Uploader {
 public:
  explicit Uploader(const DecoderOptions& options)
      : device_(options.device), dtype_(options.dtype), staging_(kPiece) {
    cudaMemPool_t pool = nullptr;
    CHORD_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device_));
    uint64_t kept = kKeptBytes;
    CHORD_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept));
  }

  int device() const { return device_; }
  uint16_t* Allocate(int64_t elements) {
    const std::lock_guard<std::mutex> lock(mutex_);
    void* memory = nullptr;
    CHORD_CUDA_CHECK(cudaMallocAsync(&memory, elements * 2, stream_.get()));
    CHORD_CUDA_CHECK(cudaMemsetAsync(memory, 0, elements * 2, stream_.get()));
    stream_.Wait();
    return static_cast<uint16_t*>(memory);
  }
  void Free(uint16_t* memory) { cudaFreeAsync(memory, stream_.get()); }
  void Copy(const void* values, Dtype dtype, int64_t count, uint16_t* to) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t size = dtype == Dtype::kFloat32 ? 4 : 2;
    for (int64_t done = 0; done < count; done += kPiece) {
      const int64_t piece = std::min(kPiece, count - done);
      ConvertElements(static_cast<const char*>(values) + done * size, dtype, piece, dtype_,
                      staging_.get());
      CHORD_CUDA_CHECK(cudaMemcpyAsync(to + done, staging_.get(), piece * 2, cudaMemcpyHostToDevice,
                                       stream_.get()));
      stream_.Wait();
    }
  }

 private:
  static constexpr int64_t kPiece = 1 << 19;
  static constexpr uint64_t kKeptBytes = 64 << 20;  // of the pool, when nothing uses them
  const int device_;
  const Dtype dtype_;
  const Stream stream_;
  const PinnedArray<uint16_t> staging_;
  std::mutex mutex_;
};

class DeviceEmbeddingRows final : public EmbeddingRows {
 public:
  DeviceEmbeddingRows(std::shared_ptr<Uploader> uploader, int64_t elements)
      : uploader_(std::move(uploader)), rows_(uploader_->Allocate(elements)) {}
  ~DeviceEmbeddingRows() override {
    (void)Guarded([&] {
      const DeviceScope scope(uploader_->device());
      uploader_->Free(rows_);
    });
  }
  Status Write(int64_t first, const void* values, Dtype dtype, int64_t count) override {
    return Guarded([&] {
      const DeviceScope scope(uploader_->device());
      uploader_->Copy(values, dtype, count, rows_ + first);
    });
  }
  void* data() override { return rows_; }

 private:
  const std::shared_ptr<Uploader> uploader_;  // rows may outlive the decoder
  uint16_t* const rows_;
};

class DecoderImpl final : public Decoder {
 public:
  explicit DecoderImpl(const DecoderOptions& options)
      : options_(options),
        device_(QueryDevice(options.device)),
        shape_{options.heads, options.kv_heads, options.head_dim},
        logit_stride_(RoundUp(options.vocab, 8)),
        uploader_(std::make_shared<Uploader>(options)),
        gemm_(options.dtype),
        sets_(options.vocab),
        small_plan_(kGraphTokens, SmallPlanPages(options), options.heads, options.kv_heads, true),
        small_(options, kGraphTokens, kGraphTokens),
        logits_(static_cast<int64_t>(kHeadRows) * logit_stride_),
        sample_rows_(kHeadRows),
        sample_rows_host_(kHeadRows),
        sample_partial_(SamplePartialBytes(kHeadRows)),
        sample_results_(kHeadRows),
        penalized_(PenalizedIds(options)),
        penalized_host_(PenalizedIds(options)) {
    CopyRotaryTables();
    AllocateKv();
    ReserveForGraphs();
    CHORD_CUDA_CHECK(cudaMemsetAsync(small_.hidden.get(), 0, small_.hidden.bytes(), stream_.get()));
    CHORD_CUDA_CHECK(
        cudaMemsetAsync(small_.attended.get(), 0, small_.attended.bytes(), stream_.get()));
    stream_.Wait();
  }

  Status Load(const DecoderTensors& tensors, int threads) override {
    return Guarded([&] {
      const DeviceScope scope(options_.device);
      weights_ = LoadWeights(options_, tensors, threads, stream_);
      DescribeMatrices();
    });
  }

  Status WarmUp() override {
    return Guarded([&] {
      const DeviceScope scope(options_.device);
      for (int n = 1; n <= kGraphTokens; ++n) {
        small_plan_.Fill(nullptr, 0, options_.hidden, Bucket(n));
        small_plan_.Upload(stream_);
        GraphOf(Bucket(n));
        stream_.Wait();
      }
    });
  }

  Status Step(const StepChunk* chunks, int count, float* logits) override {
    return Guarded([&] {
      const DeviceScope scope(options_.device);
      const int rows = RunLayers(chunks, count, nullptr);
      for (int first = 0; first < rows; first += kHeadRows) {
        const int batch = std::min(kHeadRows, rows - first);
        const int32_t* row_of = LogitsOf(first, batch);
        DownloadLogits(row_of, batch, logits + static_cast<int64_t>(first) * options_.vocab);
      }
      stream_.Wait();
    });
  }

  Status StepAndSample(const StepChunk* chunks, int count, const SampleRequest* requests,
                       SampleOutcome* outcomes) override {
    return Guarded([&] {
      const DeviceScope scope(options_.device);
      const int rows = RunLayers(chunks, count, requests);
      if (in_small_) {  // the graph has chosen
        stream_.Wait();
        CopyOutcomes(rows, outcomes);
        return;
      }
      for (int first = 0; first < rows; first += kHeadRows) {
        const int batch = std::min(kHeadRows, rows - first);
        FillSampleRows(LogitsOf(first, batch), batch, requests + first, sample_rows_host_.get());
        CHORD_CUDA_CHECK(cudaMemcpyAsync(sample_rows_.get(), sample_rows_host_.get(),
                                         batch * sizeof(SampleRow), cudaMemcpyHostToDevice,
                                         stream_.get()));
        StartSampling(sample_rows_.get(), batch, {stream_.get()});
        stream_.Wait();
        CopyOutcomes(batch, outcomes + first);
      }
      stream_.Wait();
    });
  }

  Status CopyPage(int from, int to, int rows) override {
    return Guarded([&] {
      const DeviceScope scope(options_.device);
      for (const KvPages& kv : kv_) {
        cuda::CopyPage(options_.dtype, kv, from, to, rows, {stream_.get()});
      }
    });
  }

  Status CreateEmbeddings(int64_t count, EmbeddingRows** rows) override {
    return Guarded([&] {
      const DeviceScope scope(options_.device);
      *rows = new DeviceEmbeddingRows(uploader_, std::max<int64_t>(1, count * options_.hidden));
    });
  }

  int64_t kv_bytes() const override { return kv_bytes_; }

 private:
  // Every token of a small step may belong to a sequence of its own, of any length.
  static int64_t SmallPlanPages(const DecoderOptions& o) {
    const int64_t longest = (o.rope_positions + kPageRows - 1) / kPageRows;
    return std::min<int64_t>(kGraphTokens * longest, int64_t{1} << 22);
  }

  // Every row of a batch may penalise all ids of a longest sequence.
  static int64_t PenalizedIds(const DecoderOptions& o) {
    return static_cast<int64_t>(kHeadRows) * std::min(o.rope_positions, o.vocab);
  }

  void CopyRotaryTables() {
    const int64_t count = static_cast<int64_t>(options_.rope_positions) * (options_.head_dim / 2);
    rope_cos_ = DeviceArray<float>(count);
    rope_sin_ = DeviceArray<float>(count);
    rope_axes_ = DeviceArray<int32_t>(options_.head_dim / 2);
    const auto copy = [](auto& to, const auto* from) {
      CHORD_CUDA_CHECK(cudaMemcpy(to.get(), from, to.bytes(), cudaMemcpyHostToDevice));
    };
    copy(rope_cos_, options_.rope_cos);
    copy(rope_sin_, options_.rope_sin);
    copy(rope_axes_, options_.rope_axes);
    options_.rope_cos = options_.rope_sin = nullptr;  // the caller's, read no more
    options_.rope_axes = nullptr;
  }

  void AllocateKv() {
    const int64_t rows = static_cast<int64_t>(options_.kv_pages) * kPageRows * options_.kv_heads;
    const int64_t bytes = rows * options_.head_dim * (options_.kv_int8 ? 1 : 2);
    for (int i = 0; i < options_.layers; ++i) {
      KvPages kv = {};
      kv.heads = options_.kv_heads, kv.dim = options_.head_dim;
      for (void** tensor : {&kv.keys, &kv.values}) *tensor = AllocateZeroed(bytes);
      if (options_.kv_int8) {
        kv.key_scales = static_cast<float*>(AllocateZeroed(rows * 4));
        kv.value_scales = static_cast<float*>(AllocateZeroed(rows * 4));
      }
      kv_.push_back(kv);
    }
  }
  void* AllocateZeroed(int64_t bytes) {
    kv_memory_.emplace_back(bytes);
    kv_bytes_ += bytes;
    CHORD_CUDA_CHECK(cudaMemsetAsync(kv_memory_.back().get(), 0, bytes, stream_.get()));
    return kv_memory_.back().get();
  }

  // Graphs hold the addresses, so the most that any of them needs is taken before the first.
  void ReserveForGraphs() {
    int64_t floats = 0;
    for (int n = 1; n <= kGraphTokens; ++n) {
      const int tiles = small_plan_.TilesOf(n);
      const int splits = AttentionSplits(device_, AttentionShape::kFewRows, tiles, shape_.kv_heads);
      floats = std::max(floats, AttentionPartialFloats(AttentionShape::kFewRows, tiles,
                                                       shape_.kv_heads, splits, shape_.dim));
    }
    small_attention_.Reserve(
        floats, static_cast<int64_t>(small_plan_.TilesOf(kGraphTokens)) * shape_.kv_heads, stream_);
  }

  void DescribeMatrices() {
    const int hidden = options_.hidden, q_width = shape_.heads * shape_.dim;
    for (const LayerWeights& l : weights_.layers) {
      matrices_.push_back(
          {DescribeWeight(device_, l.qkv_weight.get(), shape_.width(), hidden),
           DescribeWeight(device_, l.o_weight.get(), hidden, q_width),
           DescribeWeight(device_, l.gate_up_weight.get(), 2 * options_.intermediate, hidden),
           DescribeWeight(device_, l.down_weight.get(), hidden, options_.intermediate)});
    }
    head_matrix_ = DescribeWeight(device_, weights_.head(), options_.vocab, hidden);
  }

  // --- steps ------------------------------------------------------------------------------------

  static int Bucket(int tokens) {
    if (tokens <= kFewTokens) return tokens;
    return tokens <= 32 ? RoundUp(tokens, 4) : RoundUp(tokens, 16);
  }

  // Runs all chunks up to the rows whose logits are wanted; returns how many there are. With
  // `requests`, a step from a graph also chooses.
  int RunLayers(const StepChunk* chunks, int count, const SampleRequest* requests) {
    const int64_t tokens = TokensOf(chunks, count), pages = PagesOf(chunks, count);
    in_small_ = false;
    if (tokens == 0) return 0;
    if (tokens <= kGraphTokens && small_plan_.Fits(tokens, pages)) {
      const int bucket = Bucket(static_cast<int>(tokens));
      small_plan_.Fill(chunks, count, options_.hidden, bucket);
      if (requests != nullptr) {
        FillSampleRows(small_plan_.logit_tokens_on_host(), small_plan_.logit_rows(), requests,
                       small_plan_.samples_on_host());
      }
      small_plan_.Upload(stream_);
      GraphOf(bucket).Launch(stream_);
      in_small_ = true;
      return small_plan_.logit_rows();
    }
    ReserveLarge(static_cast<int>(tokens), pages);
    large_plan_->Fill(chunks, count, options_.hidden, 0);
    ReserveLogitRows(large_plan_->logit_rows());
    large_plan_->Upload(stream_);
    RunLarge();
    return large_plan_->logit_rows();
  }

  Graph& GraphOf(int bucket) {
    Graph& graph = graphs_[bucket];
    if (!graph.empty()) return graph;
    // First without capture: what a library sets up at its first call may not be captured.
    RunSmall(bucket);
    stream_.Wait();
    graph.Capture(stream_, [&] { RunSmall(bucket); });
    return graph;
  }

  void RunSmall(int tokens) {
    if (tokens <= kFewTokens && FewRowsFit(device_, tokens, options_.hidden)) {
      RunFew(tokens);
      StartSampling(small_plan_.samples(), tokens, {stream_.get(), device_.overlap});
      return;
    }
    RunManyKernels(small_, small_plan_, small_attention_, tokens, tokens,
                   {stream_.get(), device_.overlap}, /*all_rows=*/true);
    HeadProduct(small_.normed.get(), tokens);
    StartSampling(small_plan_.samples(), tokens, {stream_.get(), device_.overlap});
  }

  Rotary RotaryOf(const StepPlan& plan) const {
    return {rope_cos_.get(), rope_sin_.get(), rope_axes_.get(), plan.positions(),
            plan.position_stride()};
  }

  void Attend(const Workspace& w, const StepPlan& plan, const AttentionMemory& memory,
              AttentionShape shape, int tiles, int layer, const Launch& launch) {
    Attention args = {};
    args.q = w.queries.get(), args.out = w.attended.get(), args.kv = kv_[layer];
    args.heads = shape_.heads;
    args.items = plan.items(), args.tiles = plan.tile_list(shape), args.pages = plan.pages();
    args.partial = memory.partial.get(), args.counters = memory.counters.get();
    RunAttention(options_.dtype, shape, args, tiles,
                 AttentionSplits(device_, shape, tiles, shape_.kv_heads), launch);
  }

  // Memory-bound kernels that begin before their predecessor ends.
  void RunFew(int tokens) {
    const Dtype dtype = options_.dtype;
    const Launch first{stream_.get(), false}, launch{stream_.get(), device_.overlap};
    const Workspace& w = small_;
    const float eps = options_.rms_norm_eps;
    Embed(dtype, weights_.embedding.get(), small_plan_.ids(), small_plan_.sources(), tokens,
          options_.hidden, w.hidden.get(), first);
    for (int i = 0; i < options_.layers; ++i) {
      const LayerWeights& l = weights_.layers[i];
      const LayerMatrices& matrices = matrices_[i];
      const FewQkv qkv = {w.hidden.get(),        l.input_norm.get(),  eps,
                          &matrices.qkv,         l.qkv_bias.get(),    shape_,
                          RotaryOf(small_plan_), small_plan_.slots(), kv_[i],
                          w.queries.get(),       w.keys.get(),        w.values.get()};
      FewRowsQkv(dtype, device_, qkv, tokens, launch);
      if (options_.kv_int8) {
        StoreInt8(dtype, w.keys.get(), w.values.get(), small_plan_.slots(), tokens, kv_[i], launch);
      }
      Attend(w, small_plan_, small_attention_, AttentionShape::kFewRows,
             small_plan_.TilesOf(tokens), i, launch);
      FewRowsAdd(dtype, device_, w.attended.get(), matrices.o, tokens, w.hidden.get(), launch);
      FewRowsSwiGlu(dtype, device_, w.hidden.get(), l.post_norm.get(), eps, matrices.gate_up,
                    tokens, w.inner.get(), launch);
      FewRowsAdd(dtype, device_, w.inner.get(), matrices.down, tokens, w.hidden.get(), launch);
    }
    FewRowsHead(dtype, device_, w.hidden.get(), weights_.final_norm.get(), eps, head_matrix_,
                tokens, logit_stride_, logits_.get(), launch);
  }

  void Product(const void* x, const Elements& weight, const Elements* bias, int rows, int in,
               int out, void* y) {
    Gemm::Args args;
    args.x = x, args.x_stride = in, args.weight = weight.get();
    args.bias = bias == nullptr ? nullptr : bias->get();
    args.y = y, args.y_stride = out;
    args.rows = rows, args.in = in, args.out = out;
    gemm_.Run(args, stream_.get());
  }

  // Kernels for many rows: `rows` of the products, of which `tokens` count. With `all_rows` every
  // token's logits are wanted; else the last layer goes on with those that are. Leaves the rows for
  // the head in w.normed.
  void RunManyKernels(const Workspace& w, const StepPlan& plan, const AttentionMemory& memory,
                      int rows, int tokens, const Launch& launch, bool all_rows) {
    const Dtype dtype = options_.dtype;
    const float eps = options_.rms_norm_eps;
    const int hidden = options_.hidden, q_width = shape_.heads * shape_.dim;
    Embed(dtype, weights_.embedding.get(), plan.ids(), plan.sources(), tokens, hidden,
          w.hidden.get(), launch);
    uint16_t* stream_rows = w.hidden.get();
    const uint16_t* delta = nullptr;
    for (int i = 0; i < options_.layers; ++i) {
      const LayerWeights& l = weights_.layers[i];
      AddNorm(dtype, stream_rows, delta, l.input_norm.get(), eps, tokens, hidden, w.normed.get(),
              launch);
      Product(w.normed.get(), l.qkv_weight, &l.qkv_bias, rows, hidden, shape_.width(), w.qkv.get());
      StoreAndAttend(w, plan, memory, tokens, i, all_rows, launch);
      const uint16_t* attended = w.attended.get();
      if (!all_rows && i + 1 == options_.layers) {
        if (plan.logit_rows() == 0) return;
        GatherRows(dtype, w.hidden.get(), plan.logit_tokens(), plan.logit_rows(), hidden,
                   w.picked.get(), launch);
        GatherRows(dtype, w.attended.get(), plan.logit_tokens(), plan.logit_rows(), q_width,
                   w.picked_attended.get(), launch);
        stream_rows = w.picked.get(), attended = w.picked_attended.get();
        tokens = plan.logit_rows(), rows = PaddedRows(tokens);
      }
      Product(attended, l.o_weight, nullptr, rows, q_width, hidden, w.delta.get());
      AddNorm(dtype, stream_rows, w.delta.get(), l.post_norm.get(), eps, tokens, hidden,
              w.normed.get(), launch);
      Mlp(w, l, rows, launch);
      delta = w.delta.get();
    }
    AddNorm(dtype, stream_rows, delta, weights_.final_norm.get(), eps, tokens, hidden,
            w.normed.get(), launch);
  }

  void StoreAndAttend(const Workspace& w, const StepPlan& plan, const AttentionMemory& memory,
                      int tokens, int layer, bool bucket, const Launch& launch) {
    const Dtype dtype = options_.dtype;
    RotateAndStore(dtype, w.qkv.get(), shape_, RotaryOf(plan), plan.slots(), tokens, kv_[layer],
                   w.queries.get(), launch);
    if (options_.kv_int8) {
      SplitKeys(dtype, w.qkv.get(), shape_, RotaryOf(plan), tokens, w.keys.get(), w.values.get(),
                launch);
      StoreInt8(dtype, w.keys.get(), w.values.get(), plan.slots(), tokens, kv_[layer], launch);
    }
    for (const AttentionShape shape : {AttentionShape::kFewRows, AttentionShape::kManyRows}) {
      const int tiles = !bucket                             ? plan.tiles(shape)
                        : shape == AttentionShape::kFewRows ? plan.TilesOf(tokens)
                                                            : 0;
      if (tiles > 0) Attend(w, plan, memory, shape, tiles, layer, launch);
    }
  }

  void Mlp(const Workspace& w, const LayerWeights& l, int rows, const Launch& launch) {
    const int hidden = options_.hidden, inner = options_.intermediate;
    for (int first = 0; first < rows; first += kMlpRows) {
      const int batch = std::min(kMlpRows, rows - first);
      const int64_t offset = static_cast<int64_t>(first) * hidden;
      Product(w.normed.get() + offset, l.gate_up_weight, nullptr, batch, hidden, 2 * inner,
              w.gate_up.get());
      SwiGlu(options_.dtype, w.gate_up.get(), batch, inner, w.inner.get(), launch);
      Product(w.inner.get(), l.down_weight, nullptr, batch, inner, hidden, w.delta.get() + offset);
    }
  }

  static int PaddedRows(int rows) { return rows <= 8 ? rows : RoundUp(rows, kRowGranule); }

  void ReserveLarge(int tokens, int64_t pages) {
    if (large_plan_ == nullptr || !large_plan_->Fits(tokens, pages)) {
      const int64_t before_tokens = large_plan_ == nullptr ? 0 : large_.rows;
      const int rows = static_cast<int>(std::max<int64_t>(RoundUp(tokens, 256), before_tokens));
      large_plan_.reset();
      large_plan_ = std::make_unique<StepPlan>(rows, std::max<int64_t>(pages * 2, 4096),
                                               shape_.heads, shape_.kv_heads, false);
    }
    if (PaddedRows(tokens) > large_.rows) {
      const int rows = RoundUp(tokens, 256);
      large_ = {};
      large_logit_rows_ = std::max(large_logit_rows_, kHeadRows);
      large_ = Workspace(options_, rows, large_logit_rows_);
    }
  }
  void ReserveLogitRows(int rows) {
    if (PaddedRows(rows) <= large_logit_rows_) return;
    large_logit_rows_ = RoundUp(rows, 256);
    large_.picked = Elements(static_cast<int64_t>(large_logit_rows_) * options_.hidden);
    large_.picked_attended =
        Elements(static_cast<int64_t>(large_logit_rows_) * shape_.heads * shape_.dim);
  }

  void RunLarge() {
    const StepPlan& plan = *large_plan_;
    for (const AttentionShape shape : {AttentionShape::kFewRows, AttentionShape::kManyRows}) {
      const int tiles = plan.tiles(shape);
      const int splits = AttentionSplits(device_, shape, tiles, shape_.kv_heads);
      large_attention_.Reserve(
          AttentionPartialFloats(shape, tiles, shape_.kv_heads, splits, shape_.dim),
          static_cast<int64_t>(tiles) * shape_.kv_heads, stream_);
    }
    RunManyKernels(large_, plan, large_attention_, PaddedRows(plan.tokens()), plan.tokens(),
                   {stream_.get(), device_.overlap}, /*all_rows=*/false);
  }

  // --- logits -----------------------------------------------------------------------------------

  void HeadProduct(const uint16_t* x, int rows) {
    Gemm::Args args;
    args.x = x, args.x_stride = options_.hidden, args.weight = weights_.head();
    args.y = logits_.get(), args.y_stride = logit_stride_;
    args.rows = rows, args.in = options_.hidden, args.out = options_.vocab;
    gemm_.Run(args, stream_.get());
  }

  // Makes the logits of rows [first, first + batch) of those wanted; returns where in logits_ each
  // of them lies (host memory).
  const int32_t* LogitsOf(int first, int batch) {
    if (in_small_) return small_plan_.logit_tokens_on_host() + first;  // the graph made them all
    HeadProduct(large_.normed.get() + static_cast<int64_t>(first) * options_.hidden, batch);
    consecutive_.resize(batch);
    for (int i = 0; i < batch; ++i) consecutive_[i] = i;
    return consecutive_.data();
  }

  void DownloadLogits(const int32_t* row_of, int batch, float* out) {
    if (wide_.count() == 0) {
      wide_ = DeviceArray<float>(static_cast<int64_t>(kHeadRows) * options_.vocab);
      wide_rows_ = DeviceArray<int32_t>(kHeadRows);
    }
    CHORD_CUDA_CHECK(cudaMemcpyAsync(wide_rows_.get(), row_of, batch * sizeof(int32_t),
                                     cudaMemcpyHostToDevice, stream_.get()));
    WidenRows(options_.dtype, logits_.get(), logit_stride_, wide_rows_.get(), batch, options_.vocab,
              wide_.get(), {stream_.get()});
    CHORD_CUDA_CHECK(cudaMemcpyAsync(out, wide_.get(),
                                     static_cast<int64_t>(batch) * options_.vocab * sizeof(float),
                                     cudaMemcpyDeviceToHost, stream_.get()));
    stream_.Wait();
  }

  // Rows of the plan for `batch` rows of logits, which lie in rows row_of[i] of logits_. Brings
  // their sets and ids to the device.
  void FillSampleRows(const int32_t* row_of, int batch, const SampleRequest* requests,
                      SampleRow* rows) {
    sets_.BeginBatch();
    int32_t at = 0;
    for (int i = 0; i < batch; ++i) {
      const SampleRequest& request = requests[i];
      SampleRow& row = rows[i];
      row = {};
      row.logits_row = row_of[i];
      row.allowed = request.restricted ? sets_.Find(request.allowed, stream_) : -1;
      row.penalty = request.penalty;
      row.penalized_begin = at;
      if (request.penalty != 1.f) {
        row.penalized_count = request.penalized_count;
        if (at + request.penalized_count > penalized_.count()) {
          throw Error(Code::kFailed, "more ids under the penalty than the sequences can have");
        }
        std::copy_n(request.penalized, request.penalized_count, penalized_host_.get() + at);
        at += request.penalized_count;
      }
      row.mass_sets = request.mass_set_count;
      for (int m = 0; m < request.mass_set_count; ++m) {
        row.mass[m] = sets_.Find(request.mass_sets[m], stream_);
      }
    }
    if (at == 0) return;
    CHORD_CUDA_CHECK(cudaMemcpyAsync(penalized_.get(), penalized_host_.get(), at * sizeof(int32_t),
                                     cudaMemcpyHostToDevice, stream_.get()));
  }

  // Results go straight to host memory.
  void StartSampling(const SampleRow* rows, int batch, const Launch& launch) {
    SampleBuffers buffers = {};
    buffers.logits = logits_.get(), buffers.stride = logit_stride_, buffers.vocab = options_.vocab;
    buffers.sets = sets_.device(), buffers.words = sets_.words();
    buffers.penalized = penalized_.get(), buffers.rows = rows;
    buffers.partial = sample_partial_.get(), buffers.results = sample_results_.get();
    Sample(options_.dtype, buffers, batch, launch);
  }

  void CopyOutcomes(int rows, SampleOutcome* outcomes) const {
    for (int i = 0; i < rows; ++i) {
      const SampleResult& result = sample_results_.get()[i];
      outcomes[i].id = result.id;
      outcomes[i].finite = result.finite != 0;
      outcomes[i].log_probability = result.log_probability;
      std::copy_n(result.log_mass, kMaxSampleSets, outcomes[i].log_mass);
    }
  }

  DecoderOptions options_;
  const Device device_;
  const QkvShape shape_;
  const int logit_stride_;
  const Stream stream_;
  const std::shared_ptr<Uploader> uploader_;
  Gemm gemm_;
  DecoderWeights weights_;
  std::vector<LayerMatrices> matrices_;
  Weight head_matrix_;
  DeviceArray<float> rope_cos_, rope_sin_;
  DeviceArray<int32_t> rope_axes_;
  std::vector<KvPages> kv_;
  std::vector<DeviceArray<char>> kv_memory_;
  int64_t kv_bytes_ = 0;
  IdSets sets_;

  // Steps from graphs.
  StepPlan small_plan_;
  const Workspace small_;
  AttentionMemory small_attention_;
  Graph graphs_[kGraphTokens + 1];
  // Larger steps; grows.
  std::unique_ptr<StepPlan> large_plan_;
  Workspace large_;
  int large_logit_rows_ = 0;
  AttentionMemory large_attention_;

  bool in_small_ = false;  // which of the two the last step used
  std::vector<int32_t> consecutive_;
  const Elements logits_;  // [kHeadRows, logit_stride_]
  DeviceArray<float> wide_;
  DeviceArray<int32_t> wide_rows_;
  const DeviceArray<SampleRow> sample_rows_;
  const PinnedArray<SampleRow> sample_rows_host_;
  const DeviceArray<char> sample_partial_;
  const PinnedArray<SampleResult> sample_results_;
  const DeviceArray<int32_t> penalized_;
  const PinnedArray<int32_t> penalized_host_;
};

static_assert(kMaxSampleSets == kMaxMassSets);

void CheckSupported(const DecoderOptions& o) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw Error(Code::kUnsupported, "the CUDA kernels take no model %s", what);
  };
  require(o.dtype != Dtype::kFloat32, "in float32");
  require(AttentionSupports(o.head_dim, o.heads, o.kv_heads), "of this head size");
  require(o.hidden % 8 == 0 && o.hidden <= kMaxWidth, "of this hidden size");
  require(o.intermediate % 8 == 0, "of this intermediate size");
  cudaDeviceProp properties;
  CHORD_CUDA_CHECK(cudaGetDeviceProperties(&properties, o.device));
  require(properties.major >= 8, "on a GPU before compute capability 8.0");
}

}  // namespace

Status CreateDecoder(const DecoderOptions& options, Decoder** decoder) {
  return Guarded([&] {
    const DeviceScope scope(options.device);
    CheckSupported(options);
    *decoder = new DecoderImpl(options);
  });
}

}  // namespace chord::cuda
