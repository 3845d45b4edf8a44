// C++17 over limbeck.h: handles that free themselves, views, and errors as exceptions.
//
// Every function that can fail gives a `Result<T>`: that is `T` itself, and a failure throws
// `lbk::Error`. With LIMBECK_NO_EXCEPTIONS defined it is an `lbk::Expected<T>`, which holds the value
// or the error, and nothing here throws. What limbeck.h says of ownership and threads holds; handles
// move and do not copy.
#ifndef LIMBECK_HPP
#define LIMBECK_HPP

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#ifndef LIMBECK_NO_EXCEPTIONS
#include <exception>
#include <stdexcept>
#endif

#include "limbeck.h"

namespace lbk {

// A borrowed array.
template <class T> class Span {
public:
    constexpr Span() = default;
    constexpr Span(T *data, std::size_t size) : data_(data), size_(size) {}
    template <std::size_t N> constexpr Span(T (&values)[N]) : data_(values), size_(N) {}
    template <class A> Span(const std::vector<std::remove_const_t<T>, A> &values)
        : data_(values.data()), size_(values.size()) {}

    constexpr T *data() const { return data_; }
    constexpr std::size_t size() const { return size_; }
    constexpr bool empty() const { return size_ == 0; }
    constexpr T *begin() const { return data_; }
    constexpr T *end() const { return data_ + size_; }
    constexpr T &operator[](std::size_t i) const { return data_[i]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

// Why a call failed.
#ifdef LIMBECK_NO_EXCEPTIONS
class Error {
public:
    Error(lbk_code code, std::string message, std::string place)
        : message_(std::move(message)), place_(std::move(place)), code_(code) {}
    const char *what() const noexcept { return message_.c_str(); }

private:
    std::string message_;
#else
class Error : public std::runtime_error {
public:
    Error(lbk_code code, const std::string &message, std::string place)
        : std::runtime_error(message), place_(std::move(place)), code_(code) {}

private:
#endif
    std::string place_;
    lbk_code code_;

public:
    // One of the LBK_* codes.
    lbk_code code() const noexcept { return code_; }
    // Where it went wrong; empty where that is not known.
    const std::string &place() const noexcept { return place_; }
};

#ifdef LIMBECK_NO_EXCEPTIONS
// A value or the error in its place.
template <class T> class Expected {
public:
    Expected(T value) : value_(std::move(value)) {}
    Expected(Error error) : error_(std::move(error)) {}
    bool has_value() const { return value_.has_value(); }
    explicit operator bool() const { return has_value(); }
    // Only where there is a value.
    T &value() { return *value_; }
    T &operator*() { return *value_; }
    T *operator->() { return &*value_; }
    // Only where there is none.
    const Error &error() const { return *error_; }

private:
    std::optional<T> value_;
    std::optional<Error> error_;
};

template <> class Expected<void> {
public:
    Expected() = default;
    Expected(Error error) : error_(std::move(error)) {}
    bool has_value() const { return !error_; }
    explicit operator bool() const { return has_value(); }
    const Error &error() const { return *error_; }

private:
    std::optional<Error> error_;
};

template <class T> using Result = Expected<T>;
#else
template <class T> using Result = T;
#endif

namespace detail {

inline Error take(lbk_error *error) {
    const char *place = lbk_error_place(error);
    Error taken(lbk_error_code(error), lbk_error_message(error), place ? place : "");
    lbk_error_free(error);
    return taken;
}

// What `value` makes, or the error.
template <class F> auto result(lbk_error *error, F value) -> Result<decltype(value())> {
    if (error) {
#ifdef LIMBECK_NO_EXCEPTIONS
        return take(error);
#else
        throw take(error);
#endif
    }
#ifdef LIMBECK_NO_EXCEPTIONS
    if constexpr (std::is_void_v<decltype(value())>) {
        return {};
    } else {
        return value();
    }
#else
    return value();
#endif
}

inline Result<void> done(lbk_error *error) {
    return result(error, [] {});
}

template <class T, void (*Free)(T *)> struct Freer {
    void operator()(T *handle) const { Free(handle); }
};

template <class T, void (*Free)(T *)> using Owned = std::unique_ptr<T, Freer<T, Free>>;

inline lbk_text text(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view view(lbk_text text) {
    return text.length ? std::string_view(text.data, text.length) : std::string_view();
}

// A callback and what it threw, which must not go through C.
template <class F> struct Callback {
    std::remove_reference_t<F> &function;
#ifndef LIMBECK_NO_EXCEPTIONS
    std::exception_ptr thrown{};
#endif

    // Calls it: its answer, or `otherwise` once it has thrown.
    template <class R, class... A> R call(R otherwise, const A &...arguments) noexcept {
        R answer = otherwise;
        guarded([&] { answer = function(arguments...); });
        return answer;
    }

    // Calls it, unless it has thrown.
    template <class... A> void hear(const A &...arguments) noexcept {
        guarded([&] { function(arguments...); });
    }

    template <class G> void guarded(G body) noexcept {
#ifdef LIMBECK_NO_EXCEPTIONS
        body();
#else
        if (!thrown) {
            try {
                body();
            } catch (...) {
                thrown = std::current_exception();
            }
        }
#endif
    }

    // Throws on what was thrown; the call's own error gives way to it.
    void rethrow(lbk_error *error) {
#ifdef LIMBECK_NO_EXCEPTIONS
        (void)error;
#else
        if (thrown) {
            lbk_error_free(error);
            std::rethrow_exception(thrown);
        }
#endif
    }
};

} // namespace detail

// Options and results with their sizes filled in.
inline lbk_engine_options engine_options() {
    lbk_engine_options options;
    lbk_engine_options_init(&options, sizeof options);
    return options;
}
inline lbk_session_options session_options() {
    lbk_session_options options;
    lbk_session_options_init(&options, sizeof options);
    return options;
}
inline lbk_encoder_options encoder_options() {
    lbk_encoder_options options;
    lbk_encoder_options_init(&options, sizeof options);
    return options;
}
inline lbk_generate_options generate_options() {
    lbk_generate_options options;
    lbk_generate_options_init(&options, sizeof options);
    return options;
}
inline lbk_budget budget(lbk_budget_kind kind, double value = 0, double floor = 0, double ceiling = 1) {
    lbk_budget budget;
    lbk_budget_init(&budget, sizeof budget);
    budget.kind = kind;
    budget.value = value;
    budget.floor = floor;
    budget.ceiling = ceiling;
    return budget;
}

// The cancel flag and the budget of a session, an encoder or a forward, for any thread.
class Control {
public:
    explicit Control(lbk_control *handle) : handle_(handle) {}
    Result<Control> clone() const {
        lbk_control *clone = nullptr;
        lbk_error *error = lbk_control_clone(handle_.get(), &clone);
        return detail::result(error, [&] { return Control(clone); });
    }
    void cancel() const noexcept { lbk_control_cancel(handle_.get()); }
    void reset() const noexcept { lbk_control_reset(handle_.get()); }
    bool cancelled() const noexcept { return lbk_control_is_cancelled(handle_.get()) != 0; }
    // Whether the budget was in range.
    bool set(const lbk_budget &budget) const noexcept {
        return lbk_control_set_budget(handle_.get(), &budget) == LBK_OK;
    }
    lbk_budget get() const {
        lbk_budget found = lbk::budget(LBK_BUDGET_FULL);
        lbk_error_free(lbk_control_get_budget(handle_.get(), &found, sizeof found));
        return found;
    }
    lbk_control *handle() const noexcept { return handle_.get(); }

private:
    detail::Owned<lbk_control, lbk_control_free> handle_;
};

// What calls spent in sum.
class Usage {
public:
    static Result<Usage> make() {
        lbk_usage *usage = nullptr;
        lbk_error *error = lbk_usage_new(&usage);
        return detail::result(error, [&] { return Usage(usage); });
    }
    Result<lbk_totals> totals() {
        lbk_totals totals{};
        lbk_error *error = lbk_usage_get_totals(handle_.get(), &totals, sizeof totals);
        return detail::result(error, [&] { return totals; });
    }
    Result<lbk_site_usage> site(std::size_t index) {
        lbk_site_usage site{};
        lbk_error *error = lbk_usage_get_site(handle_.get(), index, &site, sizeof site);
        return detail::result(error, [&] { return site; });
    }
    Result<void> reset() { return detail::done(lbk_usage_reset(handle_.get())); }
    lbk_usage *handle() const noexcept { return handle_.get(); }

private:
    explicit Usage(lbk_usage *handle) : handle_(handle) {}
    detail::Owned<lbk_usage, lbk_usage_free> handle_;
};

// Threads, kernels and options that models share.
class Engine {
public:
    static Result<Engine> make(const lbk_engine_options &options = engine_options()) {
        lbk_engine *engine = nullptr;
        lbk_error *error = lbk_engine_new(LBK_ABI_VERSION, &options, &engine);
        return detail::result(error, [&] { return Engine(engine); });
    }
    std::string_view backend() const { return lbk_engine_backend(handle_.get()); }
    std::uint64_t memory() const { return lbk_engine_memory(handle_.get()); }
    const lbk_engine *handle() const noexcept { return handle_.get(); }

private:
    explicit Engine(lbk_engine *handle) : handle_(handle) {}
    detail::Owned<lbk_engine, lbk_engine_free> handle_;
};

// An opened plan.
class Model {
public:
    // The file is mapped: it is replaced by a rename, and never written to or made shorter while it is in use.
    static Result<Model> open(const Engine &engine, const std::string &path) {
        lbk_model *model = nullptr;
        lbk_error *error = lbk_model_open(engine.handle(), path.c_str(), &model);
        return detail::result(error, [&] { return Model(model); });
    }
    static Result<Model> open(const Engine &engine, int fd, std::uint64_t offset, std::uint64_t length) {
        lbk_model *model = nullptr;
        lbk_error *error = lbk_model_open_fd(engine.handle(), fd, offset, length, &model);
        return detail::result(error, [&] { return Model(model); });
    }
    // The bytes are used in place and given up with the last use of the model.
    static Result<Model> open(const Engine &engine, std::shared_ptr<const void> data, std::size_t size) {
        using Keeper = std::shared_ptr<const void>;
        auto *keeper = new (std::nothrow) Keeper(std::move(data));
        const void *bytes = keeper ? keeper->get() : nullptr;
        auto release = [](void *user_data) { delete static_cast<Keeper *>(user_data); };
        lbk_model *model = nullptr;
        lbk_error *error = lbk_model_open_bytes(engine.handle(), bytes, size, release, keeper, &model);
        return detail::result(error, [&] { return Model(model); });
    }
    Result<lbk_model_info> info() const {
        lbk_model_info info{};
        lbk_error *error = lbk_model_get_info(handle_.get(), &info, sizeof info);
        return detail::result(error, [&] { return info; });
    }
    // A text that the plan holds; empty where it has none.
    std::string_view text(lbk_model_text_kind kind) const {
        const char *text = lbk_model_text(handle_.get(), kind);
        return text ? text : std::string_view();
    }
    Result<lbk_site> site(std::size_t index) const {
        lbk_site site{};
        lbk_error *error = lbk_model_get_site(handle_.get(), index, &site, sizeof site);
        return detail::result(error, [&] { return site; });
    }
    Result<lbk_calibration_point> calibration(std::size_t index) const {
        lbk_calibration_point point{};
        lbk_error *error = lbk_model_get_calibration(handle_.get(), index, &point, sizeof point);
        return detail::result(error, [&] { return point; });
    }
    Result<void> verify() const { return detail::done(lbk_model_verify(handle_.get())); }
    Result<std::vector<std::uint32_t>> tokenise(std::string_view text,
                                                lbk_tokenise_mode mode = LBK_TOKENISE_PROMPT) const {
        lbk_tokens *tokens = nullptr;
        lbk_error *error = lbk_model_tokenise(handle_.get(), text.data(), text.size(), mode, &tokens);
        detail::Owned<lbk_tokens, lbk_tokens_free> owned(tokens);
        return detail::result(error, [&] {
            const std::uint32_t *data = lbk_tokens_data(tokens);
            return std::vector<std::uint32_t>(data, data + lbk_tokens_count(tokens));
        });
    }
    Result<std::string> detokenise(Span<const std::uint32_t> tokens, bool skip_special = true) const {
        lbk_bytes *bytes = nullptr;
        lbk_error *error = lbk_model_detokenise(handle_.get(), tokens.data(), tokens.size(), skip_special, &bytes);
        return text_of(error, bytes);
    }
    Result<std::string> render_chat(Span<const lbk_message> messages, bool answer = true) const {
        lbk_bytes *bytes = nullptr;
        lbk_error *error = lbk_model_render_chat(handle_.get(), messages.data(), messages.size(), answer, &bytes);
        return text_of(error, bytes);
    }
    // Options that choose tokens as the student's makers say.
    Result<lbk_generate_options> generate_options() const {
        lbk_generate_options options = lbk::generate_options();
        lbk_error *error = lbk_model_generate_options(handle_.get(), &options, sizeof options);
        return detail::result(error, [&] { return options; });
    }
    const lbk_model *handle() const noexcept { return handle_.get(); }

private:
    explicit Model(lbk_model *handle) : handle_(handle) {}
    static Result<std::string> text_of(lbk_error *error, lbk_bytes *bytes) {
        detail::Owned<lbk_bytes, lbk_bytes_free> owned(bytes);
        return detail::result(error, [&] { return std::string(lbk_bytes_data(bytes), lbk_bytes_size(bytes)); });
    }
    detail::Owned<lbk_model, lbk_model_free> handle_;
};

inline lbk_message message(std::string_view role, std::string_view content) {
    return {detail::text(role), detail::text(content)};
}

// Sequences of tokens over one model.
class Session {
public:
    static Result<Session> make(const Model &model, const lbk_session_options &options = session_options()) {
        lbk_session *session = nullptr;
        lbk_error *error = lbk_session_new(model.handle(), &options, &session);
        return detail::result(error, [&] { return Session(session); });
    }
    Result<Control> control() const {
        lbk_control *control = nullptr;
        lbk_error *error = lbk_session_control(handle_.get(), &control);
        return detail::result(error, [&] { return Control(control); });
    }
    // Also from another thread while a call runs.
    Result<lbk_status> status() const {
        lbk_status status{};
        lbk_error *error = lbk_session_get_status(handle_.get(), &status, sizeof status);
        return detail::result(error, [&] { return status; });
    }
    Result<std::uint64_t> memory() {
        std::uint64_t bytes = 0;
        lbk_error *error = lbk_session_memory(handle_.get(), &bytes);
        return detail::result(error, [&] { return bytes; });
    }
    Result<lbk_sequence> add_sequence() {
        lbk_sequence sequence = 0;
        lbk_error *error = lbk_session_add_sequence(handle_.get(), &sequence);
        return detail::result(error, [&] { return sequence; });
    }
    Result<lbk_sequence> fork(lbk_sequence sequence) {
        lbk_sequence fork = 0;
        lbk_error *error = lbk_session_fork(handle_.get(), sequence, &fork);
        return detail::result(error, [&] { return fork; });
    }
    Result<void> end_sequence(lbk_sequence sequence) {
        return detail::done(lbk_session_end_sequence(handle_.get(), sequence));
    }
    Result<std::size_t> position(lbk_sequence sequence) {
        std::size_t position = 0;
        lbk_error *error = lbk_session_position(handle_.get(), sequence, &position);
        return detail::result(error, [&] { return position; });
    }
    Result<void> rewind(lbk_sequence sequence, std::size_t position) {
        return detail::done(lbk_session_rewind(handle_.get(), sequence, position));
    }
    Result<std::string> snapshot(lbk_sequence sequence) {
        lbk_bytes *bytes = nullptr;
        lbk_error *error = lbk_session_snapshot(handle_.get(), sequence, &bytes);
        detail::Owned<lbk_bytes, lbk_bytes_free> owned(bytes);
        return detail::result(error, [&] { return std::string(lbk_bytes_data(bytes), lbk_bytes_size(bytes)); });
    }
    Result<lbk_sequence> restore(std::string_view snapshot) {
        lbk_sequence sequence = 0;
        lbk_error *error = lbk_session_restore(handle_.get(), snapshot.data(), snapshot.size(), &sequence);
        return detail::result(error, [&] { return sequence; });
    }
    // Appends tokens; `on_logits(work, token, Span<const float>)` hears the logits. Gives how many tokens
    // were committed; after a failure `position` tells.
    template <class F> Result<std::size_t> step(Span<const lbk_work> work, F &&on_logits, Usage *usage = nullptr) {
        detail::Callback<F> callback{on_logits};
        std::size_t committed = 0;
        auto trampoline = [](std::size_t item, std::size_t token, const float *logits, std::size_t vocab, void *data) {
            static_cast<detail::Callback<F> *>(data)->hear(item, token, Span<const float>(logits, vocab));
        };
        lbk_usage *spent = usage ? usage->handle() : nullptr;
        lbk_error *error = lbk_session_step(handle_.get(), work.data(), work.size(), trampoline, &callback, spent, &committed);
        callback.rethrow(error);
        return detail::result(error, [&] { return committed; });
    }
    // The same without logits.
    Result<std::size_t> step(Span<const lbk_work> work, Usage *usage = nullptr) {
        std::size_t committed = 0;
        lbk_usage *spent = usage ? usage->handle() : nullptr;
        lbk_error *error = lbk_session_step(handle_.get(), work.data(), work.size(), nullptr, nullptr, spent, &committed);
        return detail::result(error, [&] { return committed; });
    }
    Result<void> force_route(Span<const std::int32_t> choices) {
        return detail::done(lbk_session_force_route(handle_.get(), choices.data(), choices.size()));
    }
    // The choices of the last step; they live until the session is used again.
    Result<Span<const std::int32_t>> route() {
        const std::int32_t *choices = nullptr;
        std::size_t count = 0;
        lbk_error *error = lbk_session_route(handle_.get(), &choices, &count);
        return detail::result(error, [&] { return Span<const std::int32_t>(choices, count); });
    }
    lbk_session *handle() const noexcept { return handle_.get(); }

private:
    explicit Session(lbk_session *handle) : handle_(handle) {}
    detail::Owned<lbk_session, lbk_session_free> handle_;
};

// One step of a stream.
struct Piece {
    std::size_t sample;
    std::string_view text;
    std::optional<std::uint32_t> token;
    float logprob;
};

// How far a continuation has come; its parts live until the generation is run again.
struct Progress {
    lbk_sequence sequence;
    Span<const std::uint32_t> tokens;
    Span<const float> logprobs;
    std::string_view text;
    lbk_finish finish;
};

// A prompt and its continuations in progress.
class Generation {
public:
    static Result<Generation> make(Session &session, lbk_sequence sequence, Span<const std::uint32_t> prompt,
                                   const lbk_generate_options &options = generate_options()) {
        lbk_generation *generation = nullptr;
        lbk_error *error =
            lbk_generation_new(session.handle(), sequence, prompt.data(), prompt.size(), &options, &generation);
        return detail::result(error, [&] { return Generation(generation); });
    }
    // `on_piece(Piece)` hears each token and answers whether to go on. What it throws ends the
    // continuations and comes out here.
    template <class F> Result<void> run(Session &session, F &&on_piece) {
        static_assert(std::is_invocable_r_v<bool, F &, const Piece &>, "on_piece answers whether to go on");
        detail::Callback<F> callback{on_piece};
        auto trampoline = [](const lbk_piece *piece, void *data) -> std::int32_t {
            Piece heard{piece->sample, detail::view(piece->text), std::nullopt, piece->logprob};
            if (piece->has_token) {
                heard.token = piece->token;
            }
            bool go_on = static_cast<detail::Callback<F> *>(data)->template call<bool>(false, heard);
            return go_on ? 0 : 1;
        };
        lbk_error *error = lbk_generation_run(handle_.get(), session.handle(), trampoline, &callback);
        callback.rethrow(error);
        return detail::done(error);
    }
    // Runs to the end; `progress` has the text.
    Result<void> run(Session &session) {
        return detail::done(lbk_generation_run(handle_.get(), session.handle(), nullptr, nullptr));
    }
    Result<std::size_t> committed() {
        std::size_t tokens = 0;
        lbk_error *error = lbk_generation_committed(handle_.get(), &tokens);
        return detail::result(error, [&] { return tokens; });
    }
    Result<Progress> progress(std::size_t sample = 0) {
        lbk_progress p{};
        lbk_error *error = lbk_generation_get_progress(handle_.get(), sample, &p, sizeof p);
        return detail::result(error, [&] {
            return Progress{p.sequence, {p.tokens, p.token_count}, {p.logprobs, p.token_count}, detail::view(p.text), p.finish};
        });
    }
    Result<void> add_usage(Usage *prefill, Usage *decode) {
        return detail::done(lbk_generation_add_usage(handle_.get(), prefill ? prefill->handle() : nullptr,
                                                     decode ? decode->handle() : nullptr));
    }

private:
    explicit Generation(lbk_generation *handle) : handle_(handle) {}
    detail::Owned<lbk_generation, lbk_generation_free> handle_;
};

// Turns texts into vectors.
class Encoder {
public:
    static Result<Encoder> make(const Model &model, const lbk_encoder_options &options = encoder_options()) {
        lbk_model_info info{};
        lbk_encoder *encoder = nullptr;
        lbk_error *error = lbk_model_get_info(model.handle(), &info, sizeof info);
        error = error ? error : lbk_encoder_new(model.handle(), &options, &encoder);
        return detail::result(error, [&] { return Encoder(encoder, info.embedding_size); });
    }
    Result<Control> control() const {
        lbk_control *control = nullptr;
        lbk_error *error = lbk_encoder_control(handle_.get(), &control);
        return detail::result(error, [&] { return Control(control); });
    }
    // `[texts, size()]`.
    Result<std::vector<float>> embed(Span<const std::string_view> texts, Usage *usage = nullptr) {
        std::vector<lbk_text> given;
        for (std::string_view text : texts) {
            given.push_back(detail::text(text));
        }
        std::vector<float> found(texts.size() * size_);
        lbk_error *error = lbk_encoder_embed(handle_.get(), given.data(), given.size(), found.data(), found.size(),
                                             usage ? usage->handle() : nullptr, nullptr);
        return detail::result(error, [&] { return std::move(found); });
    }
    Result<std::vector<float>> embed(std::initializer_list<std::string_view> texts, Usage *usage = nullptr) {
        return embed(Span<const std::string_view>(texts.begin(), texts.size()), usage);
    }
    Result<std::vector<float>> embed(const std::vector<std::string> &texts, Usage *usage = nullptr) {
        std::vector<std::string_view> views(texts.begin(), texts.end());
        return embed(Span<const std::string_view>(views), usage);
    }
    // Elements of an embedding.
    std::size_t size() const noexcept { return size_; }

private:
    Encoder(lbk_encoder *handle, std::size_t size) : handle_(handle), size_(size) {}
    detail::Owned<lbk_encoder, lbk_encoder_free> handle_;
    std::size_t size_;
};

// Tensors that a forward gave.
class Tensors {
public:
    explicit Tensors(lbk_tensors *handle) : handle_(handle) {}
    std::size_t size() const { return lbk_tensors_count(handle_.get()); }
    Result<lbk_tensor> find(const std::string &name) const {
        lbk_tensor tensor{};
        lbk_error *error = lbk_tensors_find(handle_.get(), name.c_str(), &tensor);
        return detail::result(error, [&] { return tensor; });
    }

private:
    detail::Owned<lbk_tensors, lbk_tensors_free> handle_;
};

// Runs a plan of any task on named tensors.
class Forward {
public:
    static Result<Forward> make(const Model &model, const lbk_session_options &options = session_options()) {
        lbk_forward *forward = nullptr;
        lbk_error *error = lbk_forward_new(model.handle(), &options, &forward);
        return detail::result(error, [&] { return Forward(forward); });
    }
    Result<Control> control() const {
        lbk_control *control = nullptr;
        lbk_error *error = lbk_forward_control(handle_.get(), &control);
        return detail::result(error, [&] { return Control(control); });
    }
    std::string_view inputs() const { return lbk_forward_inputs(handle_.get()); }
    std::string_view outputs() const { return lbk_forward_outputs(handle_.get()); }
    Result<Tensors> run(Span<const lbk_tensor> inputs, Usage *usage = nullptr) {
        lbk_tensors *tensors = nullptr;
        lbk_error *error = lbk_forward_run(handle_.get(), inputs.data(), inputs.size(),
                                           usage ? usage->handle() : nullptr, &tensors);
        return detail::result(error, [&] { return Tensors(tensors); });
    }

private:
    explicit Forward(lbk_forward *handle) : handle_(handle) {}
    detail::Owned<lbk_forward, lbk_forward_free> handle_;
};

// Samples, and the steps that they took.
struct Samples {
    Tensors tensors;
    std::size_t steps;
};

// What is to be made of noise, with the defaults.
inline lbk_diffuse_options diffuse_options() {
    lbk_diffuse_options options;
    lbk_diffuse_options_init(&options, sizeof options);
    return options;
}

// Makes samples of noise.
class Diffuser {
public:
    static Result<Diffuser> make(const Model &model, std::uint64_t memory_limit = 0) {
        lbk_diffuser_options options;
        lbk_diffuser_options_init(&options, sizeof options);
        options.memory_limit = memory_limit;
        lbk_diffuser *diffuser = nullptr;
        lbk_error *error = lbk_diffuser_new(model.handle(), &options, &diffuser);
        return detail::result(error, [&] { return Diffuser(diffuser); });
    }
    Result<Control> control() const {
        lbk_control *control = nullptr;
        lbk_error *error = lbk_diffuser_control(handle_.get(), &control);
        return detail::result(error, [&] { return Control(control); });
    }
    Result<Samples> run(const lbk_diffuse_options &options = diffuse_options(), Usage *usage = nullptr) {
        lbk_tensors *tensors = nullptr;
        std::size_t steps = 0;
        lbk_error *error = lbk_diffuser_run(handle_.get(), &options, nullptr, nullptr,
                                            usage ? usage->handle() : nullptr, &steps, &tensors);
        return detail::result(error, [&] { return Samples{Tensors(tensors), steps}; });
    }

private:
    explicit Diffuser(lbk_diffuser *handle) : handle_(handle) {}
    detail::Owned<lbk_diffuser, lbk_diffuser_free> handle_;
};

// A tensor of floats that is borrowed.
inline lbk_tensor tensor(const char *name, Span<const std::size_t> shape, Span<const float> values) {
    return {name, LBK_DTYPE_F32, 0, shape.data(), shape.size(), values.data(), values.size()};
}

// A tensor of integers that is borrowed.
inline lbk_tensor tensor(const char *name, Span<const std::size_t> shape, Span<const std::int32_t> values) {
    return {name, LBK_DTYPE_I32, 0, shape.data(), shape.size(), values.data(), values.size()};
}

} // namespace lbk

#endif
