#include "embed/python.h"

#include <dlfcn.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace engine::embed {
namespace {

constexpr const char* fix = "\n  fix: eval \"$(python -m engine embed --env)\", with the python that has the engine installed";

std::string parent(const std::string& path, int levels) {
    std::string found = path;
    for (; levels > 0; --levels) {
        const auto at = found.find_last_of('/');
        if (at == std::string::npos || at == 0) return "";
        found.resize(at);
    }
    return found;
}

// The folder that holds the package `engine`: this library is engine/lib/libengine.so in it.
std::string home() {
    Dl_info info;
    if (!dladdr(reinterpret_cast<void*>(&home), &info) || !info.dli_fname) return "";
    char* real = realpath(info.dli_fname, nullptr);
    if (!real) return "";
    const std::string path = real;
    std::free(real);
    return parent(path, 3);
}

// What a virtual environment says of the Python it was made from: the value of `home` in pyvenv.cfg.
std::string base_of(const std::string& venv) {
    std::string found;
    std::FILE* file = std::fopen((venv + "/pyvenv.cfg").c_str(), "r");
    if (!file) return found;
    char line[4096];
    while (std::fgets(line, sizeof line, file)) {
        if (std::strncmp(line, "home", 4)) continue;
        const char* value = std::strchr(line, '=');
        if (!value) continue;
        found = value + 1 + std::strspn(value + 1, " \t");
        found.erase(found.find_last_not_of(" \t\r\n") + 1);
        break;
    }
    std::fclose(file);
    return found;
}

struct Place {
    std::string program;   // the python to be, which finds the packages beside it
    std::string library;   // libpython to load
    std::string fallback;  // tried next
};

// From ENGINE_PYTHON and ENGINE_LIBPYTHON, else from where this library lies: PREFIX/lib/pythonX.Y/site-packages.
Place place() {
    Place found;
    const char* program = std::getenv("ENGINE_PYTHON");
    const char* library = std::getenv("ENGINE_LIBPYTHON");
    const std::string packages = home(), versioned = parent(packages, 1), prefix = parent(packages, 3);
    const auto at = versioned.find_last_of('/');
    const std::string version = at == std::string::npos ? "" : versioned.substr(at + 1);
    if (version.compare(0, 6, "python") == 0 && version.size() > 6) {
        const std::string name = "lib" + version + ".so.1.0", base = base_of(prefix);
        found.program = prefix + "/bin/" + version;
        found.library = parent(base.empty() ? prefix + "/bin" : base, 1) + "/lib/" + name;
        found.fallback = name;
    }
    if (program && *program) found.program = program;
    if (library && *library) found.library = library, found.fallback.clear();
    return found;
}

template <class F>
bool bind(void* library, const char* name, F*& entry) {
    entry = reinterpret_cast<F*>(dlsym(library, name));
    return entry;
}

bool bind_all(void* library, Python& py, std::string& why) {
    const bool ok = bind(library, "Py_IsInitialized", py.is_initialized) && bind(library, "Py_InitializeEx", py.initialize) &&
        bind(library, "PyEval_SaveThread", py.save_thread) && bind(library, "PyGILState_Ensure", py.ensure) &&
        bind(library, "PyGILState_Release", py.release) && bind(library, "PyImport_ImportModule", py.import) &&
        bind(library, "PyObject_GetAttrString", py.attribute) && bind(library, "PyObject_CallFunction", py.call) &&
        bind(library, "PyTuple_New", py.tuple) && bind(library, "PyTuple_SetItem", py.tuple_set) &&
        bind(library, "PyLong_FromLongLong", py.from_long) && bind(library, "PyLong_AsLong", py.to_long) &&
        bind(library, "PyUnicode_AsUTF8AndSize", py.to_text) && bind(library, "PyRun_SimpleString", py.run) &&
        bind(library, "Py_DecRef", py.drop) && bind(library, "PyErr_Fetch", py.fetch) && bind(library, "PyObject_Str", py.str);
    if (!ok) why = std::string("the Python library has no entry ") + (dlerror() ? "that the engine needs" : "of that name") + fix;
    return ok;
}

void* load(const Place& where, std::string& why) {
    if (where.library.empty()) {
        why = "no Python found: this library lies outside an installed package, and ENGINE_LIBPYTHON is not set";
        why += fix;
        return nullptr;
    }
    if (void* found = dlopen(where.library.c_str(), RTLD_NOW | RTLD_GLOBAL)) return found;
    why = std::string("cannot load the Python library: ") + dlerror();
    if (!where.fallback.empty())
        if (void* found = dlopen(where.fallback.c_str(), RTLD_NOW | RTLD_GLOBAL)) return found;
    why += std::string(fix) + ";\n       a Python built without a shared library needs one (Debian: apt-get install libpython3.11)";
    return nullptr;
}

// Starts Python without signal handlers, as the program that finds the right packages; the host's locale stays as it is.
void start(void* library, const Python& py, const Place& where) {
    const char* given = std::setlocale(LC_CTYPE, nullptr);
    const std::string locale = given ? given : "C";
    void (*program)(const wchar_t*) = nullptr;
    wchar_t* (*decode)(const char*, std::size_t*) = nullptr;
    if (!where.program.empty() && bind(library, "Py_SetProgramName", program) && bind(library, "Py_DecodeLocale", decode))
        if (const wchar_t* name = decode(where.program.c_str(), nullptr)) program(name);  // Python keeps the pointer
    py.initialize(0);
    std::setlocale(LC_CTYPE, locale.c_str());
    py.save_thread();
}

// The package around this library is the one that is used: library and package are of one version. What else lies beside it
// is found last.
void add_home(const Python& py) {
    Held held(py);
    Object* module = py.import("sys");
    Object* path = module ? py.attribute(module, "path") : nullptr;
    Object* insert = path ? py.attribute(path, "insert") : nullptr;
    Object* pop = path ? py.attribute(path, "pop") : nullptr;
    Object* append = path ? py.attribute(path, "append") : nullptr;
    const std::string folder = home();
    if (insert && pop && append && !folder.empty()) {
        Object* results[] = {py.call(insert, "is", 0, folder.c_str()), py.import("engine"), py.call(pop, "i", 0),
                             py.call(append, "s", folder.c_str())};
        for (Object* each : results)
            if (each) py.drop(each);
    }
    for (Object* each : {module, path, insert, pop, append})
        if (each) py.drop(each);
    taken(py);  // what failed here is told by the import of engine.embed
}

}  // namespace

std::string taken(const Python& py) {
    Object *type = nullptr, *value = nullptr, *trace = nullptr;
    py.fetch(&type, &value, &trace);
    Object* text = value || type ? py.str(value ? value : type) : nullptr;
    const char* said = text ? py.to_text(text, nullptr) : nullptr;
    const std::string found = said ? said : "";
    for (Object* each : {type, value, trace, text})
        if (each) py.drop(each);
    return found;
}

const Python* python(std::string& why) {
    static std::mutex gate;
    static Python py;
    static bool ready = false;
    const std::lock_guard<std::mutex> lock(gate);
    if (ready) return &py;
    void* library = dlopen(nullptr, RTLD_NOW);
    const bool inside = library && dlsym(library, "Py_InitializeEx");
    const Place where = place();
    if (!inside) library = load(where, why);
    if (!library || !bind_all(library, py, why)) return nullptr;
    if (!py.is_initialized()) start(library, py, where);
    add_home(py);
    ready = true;
    return &py;
}

}  // namespace engine::embed
