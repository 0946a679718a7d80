// NVRTC: sources go through g++. The image is a header and the bytes of a shared object.
//
// The preprocessor comes first, so that what is left has no comments, macros or branches not taken; then the few words
// g++ does not know are rewritten, a table of the kernels is appended, and the compiler finishes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "engine.h"
#include "image.h"

extern char **environ;

// abi.h and prelude.h, joined by build.sh.
__asm__(R"(
    .section .rodata
    .hidden emu_embedded_prelude
    .globl emu_embedded_prelude
emu_embedded_prelude:
    .incbin "embedded_prelude.h"
    .byte 0
    .previous
)");
extern "C" const char emu_embedded_prelude[];

namespace {

struct Program {
    std::string source, name, log, image;
};

bool is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }

// What the scanner learned of a kernel.
struct Found {
    std::string name, bounds;
};

// Rewrites a preprocessed source and lists its kernels.
struct Scanner {
    const std::string &text;
    size_t at = 0;
    std::string out;
    std::vector<Found> kernels;
    std::string error;

    int depth = 0, kernel_depth = 0;
    std::string kernel;                    // whose body this is
    bool global = false, templated = false;
    std::string bounds;

    explicit Scanner(const std::string &text) : text(text) {}

    void skip_space(bool keep) {
        while (at < text.size()) {
            if (isspace((unsigned char)text[at])) {
                if (keep || text[at] == '\n') out += text[at];
                at++;
            } else if (text[at] == '#' && (at == 0 || text[at - 1] == '\n')) {
                line();
            } else {
                break;
            }
        }
    }
    void line() {  // a line marker or a pragma, unchanged
        while (at < text.size() && text[at] != '\n') out += text[at++];
    }
    std::string word() {
        size_t from = at;
        while (at < text.size() && is_word(text[at])) at++;
        return text.substr(from, at - from);
    }
    // A parenthesised text, `at` on its bracket; without the brackets.
    std::string brackets() {
        size_t from = at + 1;
        int open = 0;
        do {
            if (text[at] == '(') open++;
            if (text[at] == ')') open--;
            at++;
        } while (at < text.size() && open > 0);
        return text.substr(from, at - from - 1);
    }
    void literal() {
        char quote = text[at];
        out += text[at++];
        while (at < text.size() && text[at] != quote) {
            if (text[at] == '\\') out += text[at++];
            out += text[at++];
        }
        out += text[at++];
    }
    // Removes `word` from the end of what was written; whether it was there.
    bool take_back(const char *word) {
        size_t end = out.find_last_not_of(" \t\n");
        size_t length = strlen(word);
        if (end == std::string::npos || end + 1 < length) return false;
        size_t from = end + 1 - length;
        if (out.compare(from, length, word) != 0 || (from > 0 && is_word(out[from - 1]))) return false;
        std::string space = out.substr(end + 1);
        out.resize(from);
        out += space;
        return true;
    }
    void shared() {
        bool is_extern = take_back("extern");
        if (!is_extern) {
            take_back("static");
            out += "static __attribute__((section(\"emu_shared" + (kernel.empty() ? "" : "_" + kernel) + "\")))";
            return;
        }
        size_t from = at;
        while (at < text.size() && text[at] != ';') at++;
        std::string declaration = text.substr(from, at - from);
        at++;
        for (char &c : declaration)
            if (c == '\n') c = ' ', out += '\n';
        size_t bracket = declaration.rfind('[');
        size_t end = bracket == std::string::npos ? bracket : declaration.find_last_not_of(" \t", bracket - 1);
        if (end == std::string::npos) {
            error += "extern __shared__" + declaration + ": only `extern __shared__ TYPE NAME[];` is supported\n";
            return;
        }
        size_t start = end;
        while (start > 0 && is_word(declaration[start - 1])) start--;
        std::string name = declaration.substr(start, end + 1 - start), type = declaration.substr(0, start);
        for (const char *word : {"__attribute__", "alignas"})
            for (size_t from; (from = type.find(word)) != std::string::npos;) {
                size_t end = type.find('(', from);
                int open = 0;
                do {
                    if (end >= type.size()) break;
                    open += type[end] == '(' ? 1 : type[end] == ')' ? -1 : 0;
                    end++;
                } while (open > 0);
                type.erase(from, end - from);
            }
        if (depth > 0) {
            out += type + "*const " + name + " = (" + type + "*)emu_dynamic_shared;";
        } else {
            out += "static " + type + "*const &" + name + " = (" + type + "*const &)emu_dynamic_shared;";
        }
    }
    // `at` on the bracket that opens a kernel's parameters.
    void signature(const std::string &name) {
        global = false;
        out += "(" + brackets() + ")";
        skip_space(true);
        if (templated || at >= text.size() || text[at] != '{') return;
        kernels.push_back({name, bounds});
        kernel = name;
        kernel_depth = depth;
    }
    void run() {
        while (at < text.size()) {
            char c = text[at];
            if (c == '#' && (at == 0 || text[at - 1] == '\n')) {
                line();
            } else if (c == '"' || c == '\'') {
                literal();
            } else if (isdigit((unsigned char)c)) {
                // A number, with its digit separators and suffixes.
                while (at < text.size() && (is_word(text[at]) || text[at] == '\'' || text[at] == '.')) out += text[at++];
            } else if (is_word(c)) {
                std::string w = word();
                if (w == "__global__") {
                    global = true;
                    bounds.clear();
                } else if (w == "__launch_bounds__") {
                    skip_space(false);
                    bounds = brackets();
                } else if (w == "__shared__") {
                    shared();
                } else if (global && (w == "__attribute__" || w == "alignas")) {
                    out += w;
                    skip_space(true);
                    out += "(" + brackets() + ")";
                } else {
                    if (w == "template") templated = true;
                    out += w;
                    if (global) {
                        skip_space(true);
                        if (at < text.size() && text[at] == '(') signature(w);
                    }
                }
            } else {
                if (c == '{') depth++;
                if (c == '}') {
                    depth--;
                    if (depth == kernel_depth) kernel.clear();
                }
                if ((c == ';' || c == '}') && kernel.empty()) templated = global = false;
                out += c;
                at++;
            }
        }
    }
    void append_table() {
        out += "\n# 1 \"kernel table\"\n";
        auto section = [&](const std::string &name) {
            std::string attributes = "[] __attribute__((weak, visibility(\"hidden\")));\n";
            out += "extern \"C\" unsigned char __start_" + name + attributes;
            out += "extern \"C\" unsigned char __stop_" + name + attributes;
        };
        section("emu_shared");
        std::string table;
        for (const Found &k : kernels) {
            section("emu_shared_" + k.name);
            out += "static void emu_launch_" + k.name + "(void **params) { emu_call(&" + k.name + ", params); }\n";
            table += "{\"" + k.name + "\", emu_launch_" + k.name + ", emu_sizes(&" + k.name + "), emu_count(&" + k.name +
                     "), emu_first(" + k.bounds + "), __start_emu_shared_" + k.name + ", __stop_emu_shared_" + k.name +
                     "},\n";
        }
        out += "static const EmuKernel emu_kernels[] = {\n" + table + "{}};\n";
        out += "extern \"C\" __attribute__((visibility(\"default\"))) const EmuModule emu_module = {" +
               std::to_string(EMU_ABI) + ", " + std::to_string(kernels.size()) +
               ", emu_kernels, (EmuIndex *)&threadIdx, (EmuIndex *)&blockIdx, (EmuIndex *)&blockDim, (EmuIndex *)&gridDim, "
               "&emu_dynamic_shared, &emu_runtime, __start_emu_shared, __stop_emu_shared};\n";
    }
};

std::string read_file(const std::string &path) {
    std::string bytes;
    if (FILE *f = fopen(path.c_str(), "rb")) {
        char buffer[1 << 16];
        for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;) bytes.append(buffer, n);
        fclose(f);
    }
    return bytes;
}

bool write_file(const std::string &path, const std::string &bytes) {
    FILE *f = fopen(path.c_str(), "wb");
    if (!f) return false;
    bool whole = fwrite(bytes.data(), 1, bytes.size(), f) == bytes.size();
    return fclose(f) == 0 && whole;
}

// Runs a command, with its messages in a file; whether it succeeded.
bool run(const std::vector<std::string> &command, const std::string &messages) {
    std::vector<char *> argv;
    for (const std::string &word : command) argv.push_back(const_cast<char *>(word.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, messages.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t child;
    int failed = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed) return false;
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

const char *compiler() {
    const char *named = getenv("CUDA_EMULATOR_CXX");
    return named && *named ? named : "g++";
}

bool has_fma() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// The -D and -U of the options; what concerns the device is left out.
std::vector<std::string> macros(int count, const char *const *options) {
    std::vector<std::string> found;
    for (int i = 0; i < count; i++) {
        std::string o = options[i];
        for (const char *prefix : {"--define-macro", "--undefine-macro", "-D", "-U"}) {
            size_t n = strlen(prefix);
            if (o.compare(0, n, prefix) != 0) continue;
            std::string value = o.substr(n);
            if (!value.empty() && value[0] == '=') value.erase(0, 1);
            if (value.empty() && i + 1 < count) value = options[++i];
            found.push_back((strchr(prefix, 'u') || prefix[1] == 'U' ? "-U" : "-D") + value);
            break;
        }
    }
    return found;
}

void compile(Program &program, const std::vector<std::string> &macros, const std::string &folder) {
    std::string name = program.name;
    for (char &c : name)
        if (!is_word(c) && c != '.' && c != '-') c = '_';
    if (name.empty() || name[0] == '.' || name[0] == '-') name = "k_" + name;
    std::string prelude = folder + "/prelude.h", source = folder + "/" + name, messages = folder + "/messages",
                preprocessed = folder + "/preprocessed", rewritten = folder + "/rewritten.ii",
                object = folder + "/kernels.so";
    write_file(prelude, emu_embedded_prelude);
    write_file(source, program.source);

    std::vector<std::string> command = {compiler(), "-E", "-std=c++17", "-w", "-x", "c++", "-include", prelude, source,
                                        "-o", preprocessed};
    command.insert(command.end(), macros.begin(), macros.end());
    bool ok = run(command, messages);
    if (ok) {
        std::string text = read_file(preprocessed);
        Scanner scanner(text);
        scanner.run();
        scanner.append_table();
        program.log += scanner.error;
        write_file(rewritten, scanner.out);
        command = {compiler(), "-std=c++17", "-fpreprocessed", "-O2", "-fPIC", "-shared", "-w", "-g1",
                   "-fvisibility=hidden", "-fno-strict-aliasing", "-fno-math-errno", "-fno-exceptions", "-fno-rtti",
                   "-ffp-contract=fast", "-fstack-clash-protection", "-Wl,-Bsymbolic"};
        if (has_fma()) command.insert(command.end(), {"-mavx2", "-mfma", "-mbmi2"});
        if (engine_options().check)
            command.insert(command.end(), {"-fsanitize=bounds,alignment", "-fsanitize-undefined-trap-on-error"});
        command.insert(command.end(), {rewritten, "-o", object, "-lm"});
        ok = scanner.error.empty() && run(command, messages);
    }
    std::string log = read_file(messages);
    for (size_t a; (a = log.find(folder + "/")) != std::string::npos;) log.erase(a, folder.size() + 1);
    program.log += log;
    if (!ok && log.empty()) program.log += std::string(compiler()) + " could not be run\n";
    std::string bytes = ok ? read_file(object) : "";
    if (!bytes.empty()) {
        ImageHeader header{};
        memcpy(header.magic, IMAGE_MAGIC, sizeof header.magic);
        header.length = bytes.size();
        header.needs_fma = has_fma();
        program.image = std::string((const char *)&header, sizeof header) + bytes;
    }
    if (!getenv("CUDA_EMULATOR_KEEP"))
        for (const std::string &path : {prelude, source, messages, preprocessed, rewritten, object}) unlink(path.c_str());
}

const int SUCCESS = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, COMPILATION = 6;

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

// The minor number stands for the emulator's own sources and the options that change code, so that an image on disk that
// another build made is not used, and none of real NVRTC.
API int nvrtcVersion(int *major, int *minor) {
    unsigned hash = 2166136261u;
    for (const char *p = emu_embedded_prelude; *p; p++) hash = (hash ^ (unsigned char)*p) * 16777619u;
    *major = 99;
    *minor = (int)((hash ^ EMU_BUILD) % 100000000u) * 4 + has_fma() * 2 + engine_options().check;
    return SUCCESS;
}
API int nvrtcGetNumSupportedArchs(int *count) { return *count = 2, SUCCESS; }
API int nvrtcGetSupportedArchs(int *archs) { return archs[0] = 80, archs[1] = 90, SUCCESS; }
API const char *nvrtcGetErrorString(int result) {
    const char *names[] = {"NVRTC_SUCCESS", "NVRTC_ERROR_OUT_OF_MEMORY", "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
                           "NVRTC_ERROR_INVALID_INPUT", "NVRTC_ERROR_INVALID_PROGRAM", "NVRTC_ERROR_INVALID_OPTION",
                           "NVRTC_ERROR_COMPILATION"};
    return result >= 0 && result <= 6 ? names[result] : "NVRTC_ERROR unknown";
}
API int nvrtcCreateProgram(Program **program, const char *source, const char *name, int headers, const char *const *,
                           const char *const *) {
    if (!program || !source || headers > 0) return INVALID_INPUT;
    *program = new Program{source, name ? name : "default_program", "", ""};
    return SUCCESS;
}
API int nvrtcDestroyProgram(Program **program) {
    if (!program || !*program) return INVALID_PROGRAM;
    delete *program;
    *program = nullptr;
    return SUCCESS;
}
API int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    if (!program) return INVALID_PROGRAM;
    const char *temporary = getenv("TMPDIR");
    std::string folder = std::string(temporary && *temporary ? temporary : "/tmp") + "/cuda_emulator_XXXXXX";
    program->log.clear();
    program->image.clear();
    if (!mkdtemp(folder.data())) {
        program->log = folder + ": " + strerror(errno);
        return COMPILATION;
    }
    compile(*program, macros(count, options), folder);
    rmdir(folder.c_str());
    return program->image.empty() ? COMPILATION : SUCCESS;
}
API int nvrtcGetProgramLogSize(Program *program, size_t *size) {
    return program ? (*size = program->log.size() + 1, SUCCESS) : INVALID_PROGRAM;
}
API int nvrtcGetProgramLog(Program *program, char *log) {
    return program ? (memcpy(log, program->log.c_str(), program->log.size() + 1), SUCCESS) : INVALID_PROGRAM;
}
API int nvrtcGetCUBINSize(Program *program, size_t *size) {
    return program ? (*size = program->image.size(), SUCCESS) : INVALID_PROGRAM;
}
API int nvrtcGetCUBIN(Program *program, char *image) {
    return program ? (memcpy(image, program->image.data(), program->image.size()), SUCCESS) : INVALID_PROGRAM;
}
API int nvrtcGetPTXSize(Program *program, size_t *size) { return nvrtcGetCUBINSize(program, size); }
API int nvrtcGetPTX(Program *program, char *image) { return nvrtcGetCUBIN(program, image); }
