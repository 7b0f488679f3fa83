// Times llama.cpp's decode steps behind many cached tokens without computing them all: the state after a prompt of 512 is repeated up to each depth, since a step's time depends on how much
// is cached, not on what. bench/peers.py builds it beside llama-bench and runs it: llama-depth MODEL THREADS STEPS DEPTH…; prints a JSON line for each depth.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "llama.h"

using bytes = std::vector<uint8_t>;

// Tiler takes a state apart, as llama-kv-cache.cpp writes it, and writes it again for more cells.
struct Tiler {
    const uint8_t *at, *end;
    bytes out;

    const uint8_t *take(size_t n) {
        if (n > size_t(end - at)) throw std::runtime_error("the state is shorter than its format says");
        const uint8_t *p = at;
        at += n;
        return p;
    }
    template <class T> T copy() {
        T v;
        std::memcpy(&v, take(sizeof v), sizeof v);
        put(v);
        return v;
    }
    template <class T> void put(T v) { append(reinterpret_cast<uint8_t *>(&v), sizeof v); }
    void append(const uint8_t *p, size_t n) { out.insert(out.end(), p, p + n); }
    void repeat(size_t have, size_t want) {
        const uint8_t *p = take(have);
        for (; want > 0; want -= std::min(have, want)) append(p, std::min(have, want));
    }
};

static bytes tile(const bytes &state, uint32_t cells) {
    Tiler t{state.data(), state.data() + state.size(), {}};
    t.copy<uint32_t>(); // magic
    const auto seq = t.copy<int32_t>();
    t.copy<uint32_t>(); // streams: one
    uint32_t have;
    std::memcpy(&have, t.take(4), 4);
    t.put(cells);
    t.take(size_t(have) * 12); // position, number of sequences, the sequence
    for (uint32_t i = 0; i < cells; i++) t.put(int32_t(i)), t.put(uint32_t(1)), t.put(seq);
    const auto transposed = t.copy<uint32_t>(), layers = t.copy<uint32_t>();
    for (uint32_t i = 0; i < layers; i++) {
        t.copy<int32_t>();
        const auto row = t.copy<uint64_t>();
        t.repeat(row * have, row * cells);
    }
    for (uint32_t i = 0; i < layers; i++) {
        t.copy<int32_t>();
        if (!transposed) {
            const auto row = t.copy<uint64_t>();
            t.repeat(row * have, row * cells);
            continue;
        }
        const size_t element = t.copy<uint32_t>();
        for (auto channels = t.copy<uint32_t>(); channels > 0; channels--) t.repeat(element * have, element * cells);
    }
    if (t.at != t.end) throw std::runtime_error("the state is longer than that of one cache: a model with sliding windows has two, which are not repeated");
    return t.out;
}

static void decode(llama_context *ctx, std::vector<llama_token> &tokens) {
    if (llama_decode(ctx, llama_batch_get_one(tokens.data(), int32_t(tokens.size())))) throw std::runtime_error("llama_decode failed");
    llama_synchronize(ctx);
}

int main(int argc, char **argv) try {
    if (argc < 5) throw std::runtime_error("expected MODEL THREADS STEPS DEPTH…");
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) throw std::runtime_error("the model does not load");
    const int threads = std::atoi(argv[2]), steps = std::atoi(argv[3]);
    std::vector<llama_token> prompt(512), one(1);
    for (size_t i = 0; i < prompt.size(); i++) prompt[i] = llama_token(1000 + i * 37 % 20000);
    for (int arg = 4; arg < argc; arg++) {
        const uint32_t depth = uint32_t(std::atoi(argv[arg]));
        llama_context_params p = llama_context_default_params();
        p.n_ctx = (depth + uint32_t(steps) + 512 + 255) / 256 * 256;
        p.n_threads = p.n_threads_batch = threads;
        p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        llama_context *ctx = llama_init_from_model(model, p);
        if (!ctx) throw std::runtime_error("no context");
        if (depth > 0) {
            decode(ctx, prompt);
            bytes state(llama_state_seq_get_size(ctx, 0));
            state.resize(llama_state_seq_get_data(ctx, state.data(), state.size(), 0));
            state = tile(state, depth);
            llama_memory_clear(llama_get_memory(ctx), true);
            if (!llama_state_seq_set_data(ctx, state.data(), state.size(), 0)) throw std::runtime_error("the repeated state was refused");
        }
        std::vector<double> ms;
        for (int i = 0; i <= steps; i++) { // the first makes room
            one[0] = prompt[size_t(i) % prompt.size()];
            const auto start = std::chrono::steady_clock::now();
            decode(ctx, one);
            const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
            if (i > 0) ms.push_back(took.count());
        }
        std::sort(ms.begin(), ms.end());
        std::printf("{\"depth\": %u, \"ms\": %.3f}\n", depth, ms[ms.size() / 2]);
        std::fflush(stdout);
        llama_free(ctx);
    }
    llama_model_free(model);
} catch (const std::exception &e) {
    std::fprintf(stderr, "llama-depth: %s\n", e.what());
    return 1;
}
