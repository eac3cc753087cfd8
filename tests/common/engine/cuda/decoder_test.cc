// Whole decoders of random weights: the three forms of a step against a decoder in plain loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "common/engine/cuda/decoder_api.h"
#include "tests/common/engine/cuda/device_memory.h"

namespace chord::cuda {

Status CreateDecoder(const DecoderOptions& options, Decoder** decoder);

namespace {

DecoderOptions Options(Dtype dtype, bool int8 = false) {
  DecoderOptions o;
  o.dtype = dtype;
  o.layers = 2, o.hidden = 256, o.intermediate = 320, o.heads = 6, o.kv_heads = 2, o.head_dim = 64;
  o.vocab = 301, o.rms_norm_eps = 1e-6f, o.kv_pages = 200, o.kv_int8 = int8,
  o.rope_positions = 1200;
  return o;
}

// Weights in float32, values that bf16 holds, and the decoder in double precision.
class Reference {
 public:
  explicit Reference(const DecoderOptions& o) : o_(o) {
    const int q = o.heads * o.head_dim, kv = o.kv_heads * o.head_dim;
    auto make = [this, seed = 100](int64_t count, float scale) mutable {
      storage_.push_back(
          std::make_unique<std::vector<float>>(Random(count, seed++, Dtype::kBFloat16, scale)));
      return Tensor{storage_.back()->data(), Dtype::kFloat32};
    };
    tensors.embedding = make(int64_t{o.vocab} * o.hidden, 1);
    tensors.head = make(int64_t{o.vocab} * o.hidden, 0.1f);
    tensors.final_norm = make(o.hidden, 1);
    for (int i = 0; i < o.layers; ++i) {
      LayerTensors l;
      l.input_norm = make(o.hidden, 1), l.post_norm = make(o.hidden, 1);
      l.q_weight = make(int64_t{q} * o.hidden, 0.06f), l.q_bias = make(q, 0.5f);
      l.k_weight = make(int64_t{kv} * o.hidden, 0.06f), l.k_bias = make(kv, 0.5f);
      l.v_weight = make(int64_t{kv} * o.hidden, 0.06f), l.v_bias = make(kv, 0.5f);
      l.o_weight = make(int64_t{o.hidden} * q, 0.06f);
      l.gate_weight = make(int64_t{o.intermediate} * o.hidden, 0.06f);
      l.up_weight = make(int64_t{o.intermediate} * o.hidden, 0.06f);
      l.down_weight = make(int64_t{o.hidden} * o.intermediate, 0.06f);
      layers_.push_back(l);
    }
    tensors.layers = layers_.data();
    const int half = o.head_dim / 2;
    for (int i = 0; i < o.rope_positions * half; ++i) {
      const double angle = (i / half) * std::pow(10000.0, -2.0 * (i % half) / o.head_dim);
      cos.push_back(Rounded(std::cos(angle), o.dtype)),
          sin.push_back(Rounded(std::sin(angle), o.dtype));
    }
    for (int i = 0; i < half; ++i) axes.push_back(i * 3 / half);
  }

  // Logits of every token of a sequence; row >= 0 of `images` replaces the token's embedding.
  std::vector<float> Run(const std::vector<int32_t>& ids, const std::vector<int32_t>& positions,
                         const std::vector<int32_t>& rows, const std::vector<float>& images) const {
    const int n = static_cast<int>(ids.size()), width = o_.hidden, d = o_.head_dim;
    std::vector<double> h(int64_t{n} * width);
    for (int i = 0; i < n; ++i) {
      const float* from = rows[i] >= 0 ? images.data() + int64_t{rows[i]} * width
                                       : Data(tensors.embedding) + int64_t{ids[i]} * width;
      std::copy_n(from, width, h.begin() + int64_t{i} * width);
    }
    for (const LayerTensors& l : layers_) {
      const auto x = Norm(h, l.input_norm);
      auto q = Linear(x, l.q_weight, l.q_bias, width), k = Linear(x, l.k_weight, l.k_bias, width);
      const auto v = Linear(x, l.v_weight, l.v_bias, width);
      Rotate(&q, o_.heads, positions), Rotate(&k, o_.kv_heads, positions);
      Add(&h, Linear(Attend(q, k, v, n, d), l.o_weight, {}, o_.heads * d));
      const auto z = Norm(h, l.post_norm);
      auto gate = Linear(z, l.gate_weight, {}, width);
      const auto up = Linear(z, l.up_weight, {}, width);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      Add(&h, Linear(gate, l.down_weight, {}, o_.intermediate));
    }
    const auto logits = Linear(Norm(h, tensors.final_norm), tensors.head, {}, width);
    return {logits.begin(), logits.end()};
  }

  DecoderTensors tensors;
  std::vector<float> cos, sin;
  std::vector<int32_t> axes;

 private:
  using Rows = std::vector<double>;
  static const float* Data(const Tensor& tensor) { return static_cast<const float*>(tensor.data); }
  int64_t Count(const Tensor& tensor) const {
    for (const auto& values : storage_) {
      if (values->data() == tensor.data) return static_cast<int64_t>(values->size());
    }
    return 0;
  }
  static void Add(Rows* to, const Rows& more) {
    for (size_t i = 0; i < to->size(); ++i) (*to)[i] += more[i];
  }
  Rows Norm(const Rows& x, const Tensor& weight) const {
    Rows y(x.size());
    for (size_t row = 0; row < x.size(); row += o_.hidden) {
      double sum = 0;
      for (int i = 0; i < o_.hidden; ++i) sum += x[row + i] * x[row + i];
      for (int i = 0; i < o_.hidden; ++i)
        y[row + i] = x[row + i] / std::sqrt(sum / o_.hidden + o_.rms_norm_eps) * Data(weight)[i];
    }
    return y;
  }
  Rows Linear(const Rows& x, const Tensor& weight, const Tensor& bias, int in) const {
    const int64_t out = Count(weight) / in, rows = static_cast<int64_t>(x.size()) / in;
    Rows y(rows * out);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        double sum = bias.data == nullptr ? 0 : Data(bias)[o];
        for (int i = 0; i < in; ++i) sum += x[r * in + i] * Data(weight)[o * in + i];
        y[r * out + o] = sum;
      }
    }
    return y;
  }
  void Rotate(Rows* x, int heads, const std::vector<int32_t>& positions) const {
    const int d = o_.head_dim, half = d / 2, n = static_cast<int>(positions.size()) / 3;
    for (int i = 0; i < n; ++i) {
      for (int head = 0; head < heads; ++head) {
        double* row = x->data() + (int64_t{i} * heads + head) * d;
        for (int f = 0; f < half; ++f) {
          const int at = positions[axes[f] * n + i] * half + f;
          const double a = row[f], b = row[f + half];
          row[f] = a * cos[at] - b * sin[at], row[f + half] = b * cos[at] + a * sin[at];
        }
      }
    }
  }
  Rows Attend(const Rows& q, const Rows& k, const Rows& v, int n, int d) const {
    Rows out(q.size());
    for (int i = 0; i < n; ++i) {
      for (int head = 0; head < o_.heads; ++head) {
        const int kv = head / (o_.heads / o_.kv_heads);
        const double* row = q.data() + (int64_t{i} * o_.heads + head) * d;
        std::vector<double> p(i + 1);
        double top = -INFINITY, sum = 0;
        for (int j = 0; j <= i; ++j) {
          for (int c = 0; c < d; ++c)
            p[j] += row[c] * k[(int64_t{j} * o_.kv_heads + kv) * d + c] / std::sqrt(double(d));
          top = std::max(top, p[j]);
        }
        for (double& x : p) sum += x = std::exp(x - top);
        for (int j = 0; j <= i; ++j) {
          for (int c = 0; c < d; ++c)
            out[(int64_t{i} * o_.heads + head) * d + c] +=
                p[j] / sum * v[(int64_t{j} * o_.kv_heads + kv) * d + c];
        }
      }
    }
    return out;
  }

  const DecoderOptions o_;
  std::vector<std::unique_ptr<std::vector<float>>> storage_;
  std::vector<LayerTensors> layers_;
};

class DecoderTest : public CudaTest {
 protected:
  void Make(DecoderOptions options) {
    reference = std::make_unique<Reference>(options);
    options.rope_cos = reference->cos.data(), options.rope_sin = reference->sin.data();
    options.rope_axes = reference->axes.data();
    Decoder* made = nullptr;
    ASSERT_TRUE(CreateDecoder(options, &made).ok());
    decoder.reset(made);
    ASSERT_TRUE(decoder->Load(reference->tensors, 2).ok());
    this->options = options;
    images = Random(40LL * options.hidden, 77, options.dtype);
    EmbeddingRows* rows = nullptr;
    ASSERT_TRUE(decoder->CreateEmbeddings(40, &rows).ok());
    embeddings.reset(rows);
    ASSERT_TRUE(
        rows->Write(0, images.data(), Dtype::kFloat32, static_cast<int64_t>(images.size())).ok());
  }

  struct Sequence {
    std::vector<int32_t> ids, positions, rows, pages;
  };
  Sequence MakeSequence(int n, int seed, int first_page) const {
    Sequence s;
    for (int i = 0; i < n; ++i) {
      s.ids.push_back((i * 37 + seed * 11) % options.vocab);
      s.rows.push_back(i >= 5 && i < 45 && n > 50 ? i - 5 : -1);
    }
    for (int axis = 0; axis < 3; ++axis) {
      for (int i = 0; i < n; ++i)
        s.positions.push_back(s.rows[i] < 0 ? i
                                            : 5 + (axis == 0   ? 0
                                                   : axis == 1 ? s.rows[i] / 8
                                                               : s.rows[i] % 8));
    }
    for (int i = 0; i < (n + kPageRows - 1) / kPageRows; ++i) s.pages.push_back(first_page + i);
    std::reverse(s.pages.begin(), s.pages.end());
    return s;
  }

  // Rows [begin, end) of a sequence; `storage` keeps its positions.
  StepChunk Part(const Sequence& s, int begin, int end, std::vector<int32_t>* storage) const {
    const int n = static_cast<int>(s.ids.size());
    storage->clear();
    for (int axis = 0; axis < 3; ++axis) {
      storage->insert(storage->end(), s.positions.begin() + axis * n + begin,
                      s.positions.begin() + axis * n + end);
    }
    StepChunk chunk;
    chunk.pages = s.pages.data(), chunk.start = begin, chunk.count = end - begin;
    chunk.ids = s.ids.data() + begin, chunk.positions = storage->data();
    chunk.image_rows = s.rows.data() + begin, chunk.embeddings = embeddings->data();
    chunk.logits = end - begin;
    return chunk;
  }

  // All logits of a sequence in pieces that end at `ends`.
  std::vector<float> Run(const Sequence& s, std::vector<int> ends) {
    std::vector<float> all;
    std::vector<int32_t> storage;
    ends.push_back(static_cast<int>(s.ids.size()));
    int begin = 0;
    for (int end : ends) {
      const StepChunk chunk = Part(s, begin, end, &storage);
      std::vector<float> logits(int64_t{end - begin} * options.vocab, NAN);
      const Status status = decoder->Step(&chunk, 1, logits.data());
      EXPECT_TRUE(status.ok()) << status.message;
      all.insert(all.end(), logits.begin(), logits.end());
      begin = end;
    }
    return all;
  }
  double WholeTolerance() const {
    return options.kv_int8 ? 4e-2 : options.dtype == Dtype::kBFloat16 ? 2e-2 : 3e-3;
  }

  DecoderOptions options;
  std::unique_ptr<Reference> reference;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<EmbeddingRows> embeddings;
  std::vector<float> images;
};

TEST_F(DecoderTest, EveryFormOfStepGivesTheReferencesLogits) {
  for (const auto& [dtype, int8] :
       {std::pair{Dtype::kBFloat16, false}, {Dtype::kFloat16, false}, {Dtype::kBFloat16, true}}) {
    Make(Options(dtype, int8));
    if (HasFatalFailure()) return;
    const Sequence s = MakeSequence(180, 3, 7);
    const auto want = reference->Run(s.ids, s.positions, s.rows, images);
    EXPECT_LT(Distance(Run(s, {}), want), WholeTolerance()) << "one large step";
    EXPECT_LT(Distance(Run(s, {70, 140, 150}), want), WholeTolerance()) << "large and small steps";
    std::vector<int> ends;
    for (int i = 1; i < 180; ++i) ends.push_back(i);
    EXPECT_LT(Distance(Run(s, ends), want), WholeTolerance()) << "token by token";
    ends.clear();
    for (int i = 0, step = 1; i + step < 180; i += step, step = step % 9 + 1)
      ends.push_back(i + step);
    EXPECT_LT(Distance(Run(s, ends), want), WholeTolerance()) << "several tokens at a time";
    EXPECT_LT(Distance(Run(s, {20, 60, 100, 164}), want), WholeTolerance())
        << "graphs of many tokens";
  }
}

TEST_F(DecoderTest, SequencesOfAStepDoNotSeeEachOther) {
  Make(Options(Dtype::kBFloat16));
  if (HasFatalFailure()) return;
  const Sequence a = MakeSequence(90, 1, 0), b = MakeSequence(33, 2, 20),
                 c = MakeSequence(150, 5, 40);
  const auto want_a = reference->Run(a.ids, a.positions, a.rows, images);
  const auto want_b = reference->Run(b.ids, b.positions, b.rows, images);
  const auto want_c = reference->Run(c.ids, c.positions, c.rows, images);
  Run(a, {}), Run(b, {}), Run(c, {});
  std::vector<int32_t> storage[3];
  const auto last = [&](const std::vector<float>& all, int rows) {
    return std::vector<float>(all.end() - int64_t{rows} * options.vocab, all.end());
  };
  for (const int of_c : {2, 40, 150}) {  // a graph of few tokens, one of many, a large step
    StepChunk chunks[] = {Part(a, 89, 90, &storage[0]), Part(b, 30, 33, &storage[1]),
                          Part(c, 150 - of_c, 150, &storage[2])};
    chunks[2].logits = 1;
    std::vector<float> logits(5LL * options.vocab, NAN);
    ASSERT_TRUE(decoder->Step(chunks, 3, logits.data()).ok());
    auto want = last(want_a, 1);
    for (const auto& more : {last(want_b, 3), last(want_c, 1)})
      want.insert(want.end(), more.begin(), more.end());
    EXPECT_LT(Distance(logits, want), WholeTolerance()) << of_c;
  }
}

TEST_F(DecoderTest, SamplesWhatTheLogitsGive) {
  Make(Options(Dtype::kBFloat16));
  if (HasFatalFailure()) return;
  const Sequence s = MakeSequence(120, 3, 0);
  Run(s, {});
  for (const int n : {1, 8, 30, 100}) {
    std::vector<int32_t> storage;
    const StepChunk chunk = Part(s, 120 - n, 120, &storage);
    std::vector<float> logits(int64_t{n} * options.vocab);
    ASSERT_TRUE(decoder->Step(&chunk, 1, logits.data()).ok());
    std::vector<uint64_t> odd((options.vocab + 63) / 64, 0xAAAAAAAAAAAAAAAAull),
        all(odd.size() + 3, ~uint64_t{0});
    const IdBits mass[] = {{odd.data(), static_cast<int>(odd.size())},
                           {all.data(), static_cast<int>(all.size())}};
    std::vector<SampleRequest> requests(n);
    for (int i = 0; i < n; ++i) {
      requests[i].restricted = i % 2 == 1, requests[i].allowed = mass[0];
      requests[i].mass_sets = mass, requests[i].mass_set_count = 2;
    }
    std::vector<SampleOutcome> outcomes(n);
    ASSERT_TRUE(decoder->StepAndSample(&chunk, 1, requests.data(), outcomes.data()).ok());
    for (int i = 0; i < n; ++i) {
      int best = -1;
      const float* row = logits.data() + int64_t{i} * options.vocab;
      for (int id = 0; id < options.vocab; ++id) {
        if (i % 2 == 1 && id % 2 == 0) continue;
        if (best < 0 || row[id] > row[best]) best = id;
      }
      EXPECT_EQ(outcomes[i].id, best) << n << " " << i;
      EXPECT_TRUE(outcomes[i].finite);
      EXPECT_LE(outcomes[i].log_mass[0], 1e-9);
      EXPECT_NEAR(outcomes[i].log_mass[1], 0, 1e-6);
    }
  }
}

TEST_F(DecoderTest, ACopiedPageServesAnotherSequence) {
  Make(Options(Dtype::kBFloat16));
  if (HasFatalFailure()) return;
  Sequence s = MakeSequence(60, 3, 0);
  const auto all = Run(s, {});
  // The first 40 rows: two whole pages shared, eight rows copied.
  ASSERT_TRUE(decoder->CopyPage(s.pages[2], 50, 8).ok());
  s.pages[2] = 50, s.pages[3] = 51;
  std::vector<int32_t> storage;
  const StepChunk chunk = Part(s, 40, 60, &storage);
  std::vector<float> logits(20LL * options.vocab);
  ASSERT_TRUE(decoder->Step(&chunk, 1, logits.data()).ok());
  EXPECT_LT(Distance(logits, std::vector<float>(all.end() - 20LL * options.vocab, all.end())),
            WholeTolerance());
}

TEST_F(DecoderTest, RefusesWhatItsKernelsDoNotTake) {
  const auto code = [](const DecoderOptions& options) {
    Decoder* made = nullptr;
    return CreateDecoder(options, &made).code;
  };
  DecoderOptions options = Options(Dtype::kFloat32);
  EXPECT_EQ(code(options), Code::kUnsupported);
  options = Options(Dtype::kBFloat16);
  options.head_dim = 256;
  EXPECT_EQ(code(options), Code::kUnsupported);
  options = Options(Dtype::kBFloat16);
  options.hidden = 36;
  EXPECT_EQ(code(options), Code::kUnsupported);
}

}  // namespace
}  // namespace chord::cuda
