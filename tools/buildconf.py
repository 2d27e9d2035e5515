"""The one place where compilers, flags, rooms and libraries are named.

``setup.py`` imports it to build the package, the Makefile calls it to build C tests and fuzzers:

    python tools/buildconf.py ctests [--sanitize address,undefined|thread] [--run] [NAME ...]
    python tools/buildconf.py fuzz   [--run] [--engine libfuzzer --seconds N] [NAME ...]
    python tools/buildconf.py cudahost [--sanitize address,undefined] [--device] [--run] [NAME ...]
    python tools/buildconf.py table

Objects are rebuilt when the source, a header it included, or the flags changed.
Switches (environment): SMHF_CUDA, SMHF_CUDA_ARCHS, SMHF_BLAS, SMHF_DEBUG, SMHF_SANITIZE, SMHF_WERROR.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
BUILD = ROOT / "build"
PACKAGE = ROOT / "smhf_native"

# Rooms linked once into libsmhf.so; invoker and server need other libraries and stay in their modules.
CORE_ROOMS = ["common", "tokenizer", "backend", "backend_cpu", "model", "trace"]
PROVIDER_SOURCE = CSRC / "backend_cpu" / "cpu_gemm_openblas.c"
GLUE_SHARED = ["py_arrow.c", "py_common.c", "py_text.c", "py_view.c"]

WARNINGS = [
    "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wvla",
]  # fmt: skip
CONVERSION_SOURCES = {"json.c", "archive.c", "safetensors.c", "config.c", "vocab.c", "wire.c"}


class BuildError(RuntimeError):
    """A compiler or linker failed; its output was printed."""


@dataclass
class Library:
    """A system library: how to find it, and what brings it."""

    name: str
    flags: list[str]
    header: str
    package: str
    _probe: bool | None = field(default=None, repr=False)

    def found(self) -> bool:
        """Compile and link a one-line program against it (cached for this process)."""
        if self._probe is None:
            self._probe = _links(f"#include <{self.header}>\nint main(void) {{ return 0; }}\n", self.flags)
        return self._probe


def pkg_flags(name: str, fallback: list[str]) -> list[str]:
    """Flags from pkg-config, else the fallback."""
    if shutil.which("pkg-config") is None:
        return fallback
    result = subprocess.run(
        ["pkg-config", "--cflags", "--libs", name], capture_output=True, text=True, check=False
    )
    return shlex.split(result.stdout) if result.returncode == 0 else fallback


def _links(program: str, flags: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(program)
        command = [*cc(), str(source), "-o", str(Path(folder, "probe")), *flags]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


ZLIB = Library("zlib", ["-lz"], "zlib.h", "zlib1g-dev")


def zlib_flags() -> list[str]:
    """Link flags; none where there is no zlib, and then compressed files are refused."""
    return ZLIB.flags if ZLIB.found() else []


OPENBLAS = Library("OpenBLAS", pkg_flags("openblas", ["-lopenblas"]), "cblas.h", "libopenblas-dev")
CURL = Library("libcurl", pkg_flags("libcurl", ["-lcurl"]), "curl/curl.h", "libcurl4-openssl-dev")
OPENSSL = Library("OpenSSL", ["-lcrypto"], "openssl/evp.h", "libssl-dev")
MICROHTTPD = Library(
    "libmicrohttpd", pkg_flags("libmicrohttpd", ["-lmicrohttpd"]), "microhttpd.h", "libmicrohttpd-dev"
)

# Extension modules over libsmhf.so: room -> (libraries it needs, needs NumPy headers).
MODULES: dict[str, tuple[list[Library], bool]] = {
    "tokenizer": ([], True),
    "model": ([], True),
    "invoker": ([CURL, OPENSSL], False),
    "server": ([MICROHTTPD], False),
    "trace": ([], False),
}


def cc() -> list[str]:
    """The C compiler command ($CC or cc)."""
    return shlex.split(os.environ.get("CC", "cc"))


def switch(name: str, default: str = "auto") -> str:
    """Value of an SMHF_ build switch."""
    return os.environ.get(name, default)


def cflags(sanitize: str = "") -> list[str]:
    """Flags for every C file of the core and the glue."""
    flags = ["-std=c11", "-D_GNU_SOURCE", "-fPIC", "-pthread", f"-I{CSRC}", *WARNINGS]
    flags += ["-fno-math-errno", "-ffp-contract=off", "-fno-semantic-interposition"]
    if switch("SMHF_WERROR", "0") == "1":
        flags.append("-Werror")
    if sanitize or switch("SMHF_DEBUG", "0") == "1":
        flags += ["-g", "-O1", "-DSMHF_DEBUG", "-fno-omit-frame-pointer"]
    else:
        flags += ["-O3", "-g1", "-DNDEBUG"]
    if sanitize:
        flags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
    return flags


def extra_cflags(source: Path) -> list[str]:
    """Flags of one file: -Wconversion in parsers; the CPU's inner loops need vectors; zlib's door."""
    if source.name == "inflate.c" and not ZLIB.found():
        return ["-DSMHF_NO_ZLIB"]
    if source.name.startswith("cpu_kernels_"):
        return ["-fno-trapping-math"]  # lets selects become vector blends; results are the same
    return ["-Wconversion"] if source.name in CONVERSION_SOURCES else []


def core_sources(rooms: list[str] | None = None) -> list[Path]:
    """All .c files of the given rooms (default: those of libsmhf.so), the BLAS provider excepted."""
    found = [s for room in (rooms or CORE_ROOMS) for s in sorted((CSRC / room).glob("*.c"))]
    return [s for s in found if s != PROVIDER_SOURCE]


def run(command: list[str]) -> None:
    """Run a tool; on failure print its command and output and raise."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        print(shlex.join(command), file=sys.stderr)
        print(result.stdout + result.stderr, file=sys.stderr)
        raise BuildError(f"{command[0]} exited with {result.returncode}")
    if result.stderr.strip():
        print(result.stderr, file=sys.stderr)


def _dependencies(depfile: Path) -> list[Path]:
    text = depfile.read_text().replace("\\\n", " ")
    return [Path(p) for p in text.split(":", 1)[1].split()]


def _fresh(target: Path, stamp: Path, key: str, depfile: Path) -> bool:
    if not (target.exists() and stamp.exists() and depfile.exists()) or stamp.read_text() != key:
        return False
    age = target.stat().st_mtime_ns
    return all(p.exists() and p.stat().st_mtime_ns <= age for p in _dependencies(depfile))


def compile_object(
    source: Path, flags: list[str], folder: Path, compiler: list[str] | None = None
) -> Path:
    """Compile one file into `folder`, unless its object is up to date."""
    relative = source.relative_to(ROOT) if source.is_relative_to(ROOT) else Path(source.name)
    target = folder / relative.with_suffix(".o")
    depfile, stamp = target.with_suffix(".d"), target.with_suffix(".key")
    command = [*(compiler or cc()), *flags, *extra_cflags(source)]
    key = hashlib.sha256(shlex.join(command).encode()).hexdigest()
    if not _fresh(target, stamp, key, depfile):
        target.parent.mkdir(parents=True, exist_ok=True)
        run([*command, "-MMD", "-MF", str(depfile), "-c", str(source), "-o", str(target)])
        stamp.write_text(key)
    return target


def compile_all(
    sources: list[Path], flags: list[str], folder: Path, compiler: list[str] | None = None
) -> list[Path]:
    """Compile many files, as many at once as there are processors."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda s: compile_object(s, flags, folder, compiler), sources))


def link(target: Path, objects: list[Path], flags: list[str]) -> Path:
    """Link a program or shared object when an input is newer."""
    inputs = [*objects, *(Path(f) for f in flags if f.endswith((".so", ".map")) and Path(f).exists())]
    stamp = target.parent / f".{target.name}.key"
    key = hashlib.sha256(shlex.join([str(o) for o in objects] + flags).encode()).hexdigest()
    current = target.exists() and stamp.exists() and stamp.read_text() == key
    if current and all(i.stat().st_mtime_ns <= target.stat().st_mtime_ns for i in inputs):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    run([*cc(), *[str(o) for o in objects], "-o", str(target), "-pthread", *flags])
    stamp.write_text(key)
    return target


def build_core(folder: Path, lib_folder: Path, sanitize: str = "") -> Path:
    """libsmhf.so: floors 0 and 1, exporting smhf_* only."""
    version_script = CSRC / "libsmhf.map"
    objects = compile_all(core_sources(), cflags(sanitize), folder)
    flags = ["-shared", "-Wl,-soname,libsmhf.so", f"-Wl,--version-script={version_script}",
             "-Wl,-Bsymbolic-functions", "-Wl,-z,defs", *zlib_flags(), "-lm", "-ldl"]  # fmt: skip
    if sanitize:
        flags = [f for f in flags if f != "-Wl,-z,defs"] + [f"-fsanitize={sanitize}"]
    return link(lib_folder / "libsmhf.so", objects, flags)


def _static_openblas() -> list[str]:
    """Link flags for a private copy of OpenBLAS; empty where there is no static library."""
    folders = [f for f in OPENBLAS.flags if f.startswith("-L")]
    flags = [*folders, "-l:libopenblas.a", "-Wl,--exclude-libs,ALL", "-pthread", "-lm"]
    program = "#include <cblas.h>\nint main(void) { openblas_set_num_threads(1); return 0; }\n"
    include = [f for f in OPENBLAS.flags if f.startswith("-I")]
    return flags if _links(program, [*include, *flags]) else []


def build_provider(folder: Path, lib_folder: Path, sanitize: str = "") -> Path | None:
    """libsmhf_openblas.so, opened when a matmul first needs it; None without OpenBLAS.

    It holds an OpenBLAS of its own where the static library is there: that one may be told to use
    one thread without changing the thread count of a shared copy that NumPy may use.
    """
    if switch("SMHF_BLAS") == "plain" or not OPENBLAS.found() or not PROVIDER_SOURCE.exists():
        return None
    include = [f for f in OPENBLAS.flags if f.startswith("-I")]
    static = _static_openblas() if switch("SMHF_BLAS") != "shared" else []
    define = ["-DSMHF_BLAS_OWN_COPY"] if static else []
    objects = compile_all([PROVIDER_SOURCE], [*cflags(sanitize), *include, *define], folder)
    return link(lib_folder / "libsmhf_openblas.so", objects, ["-shared", *(static or OPENBLAS.flags)])


def module_sources(room: str) -> list[Path]:
    """Glue of one room, the shared glue, and the C room itself when it is not in libsmhf.so."""
    glue = sorted(p for p in (CSRC / "python").glob("*.c") if p.name not in GLUE_SHARED)
    mine = [p for p in glue if p.name in GLUE_FILES[room]]
    own = [] if room in CORE_ROOMS else core_sources([room])
    return [*mine, *(CSRC / "python" / name for name in GLUE_SHARED), *own]


# Which glue files make which module; py_array.c is NumPy's only door.
GLUE_FILES: dict[str, set[str]] = {
    "tokenizer": {"tokenizer_module.c", "tokenizer_type.c", "encoding_type.c", "py_array.c"},
    "model": {"model_module.c", "model_type.c", "trainer_type.c", "py_array.c", "py_cancel.c"},
    "invoker": {"invoker_module.c", "invoker_type.c"},
    "server": {"server_module.c", "server_type.c", "server_join.c"},
    "trace": {"trace_module.c", "trace_type.c", "sampler_type.c", "event_writer_type.c"},
}


def room_reason(room: str) -> str | None:
    """Why a room cannot be built here, or None."""
    if not (CSRC / "python" / f"{room}_module.c").exists():
        return "not written yet"
    missing = [lib for lib in MODULES[room][0] if not lib.found()]
    if missing:
        return "missing " + ", ".join(f"{lib.name} (Debian: {lib.package})" for lib in missing)
    return None


# --- C tests and fuzz targets -------------------------------------------------------------------


def flavour(sanitize: str) -> Path:
    """Object folder of one kind of build."""
    return BUILD / ("obj" if not sanitize else "obj-" + sanitize.replace(",", "-"))


def build_program(source: Path, sanitize: str, extra: list[str] | None = None) -> Path:
    """One test or fuzz program, linked statically with the rooms it may need."""
    folder = flavour(sanitize)
    flags = [*cflags(sanitize), f"-I{ROOT / 'tests' / 'c'}", f"-I{ROOT / 'tests'}"]
    room = source.stem.split("_", 1)[1]
    libraries = [*zlib_flags(), "-lm", "-ldl"]
    rooms = list(CORE_ROOMS)
    if room in ("invoker", "sigv4", "oom_invoker"):
        rooms.append("invoker")
        libraries += CURL.flags + OPENSSL.flags
    if room in ("server", "oom_server"):
        rooms.append("server")
        libraries += MICROHTTPD.flags
    objects = compile_all([source, *core_sources(rooms)], flags, folder)
    sanitizer = [f"-fsanitize={sanitize}"] if sanitize else []
    return link(folder / "bin" / source.stem, objects, [*libraries, *sanitizer, *(extra or [])])


# --- the CUDA plugin, for real and on the host ----------------------------------------------------

# sm_80 code runs on 8.6 and 8.9 too; later devices take the PTX. Files *_sm90a.cu hold what only Hopper
# has (wgmma, bulk tensor copies): they are assembled for sm_90a alone, whatever else is asked for.
CUDA_ARCHS = "80 90 100 90+ptx"
CUBLAS_SONAME = "libcublasLt.so.13"
CUDA_PLUGIN = "libsmhf_cuda.so"
_cuda_failure: list[str] = []  # why its build failed in this process
# What the plugin takes along from the core: its own private copies.
CUDA_COMMON = ["status.c", "mem.c", "library.c"]


def required(kind: str) -> bool:
    """Is this kind named in SMHF_REQUIRE?"""
    return kind in os.environ.get("SMHF_REQUIRE", "").split(",")


def _pip_cuda() -> list[Path]:
    """Folders nvidia/cu13 of installed packages (headers, libraries, perhaps a compiler)."""
    return [p for entry in sys.path if entry and (p := Path(entry, "nvidia", "cu13")).is_dir()]


def _nvcc_version(nvcc: Path) -> str:
    """"13.0", or "unknown"."""
    result = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release (\d+\.\d+)", result.stdout)
    return found.group(1) if found else "unknown"


def _nvcc_fits(nvcc: Path) -> bool:
    return _nvcc_version(nvcc).startswith(("13.", "14."))


def find_nvcc() -> Path | None:
    """nvcc: on the path, below $CUDA_HOME, in the usual place, of the package; one of 13 before others."""
    found = shutil.which("nvcc")
    homes = [Path(h) for h in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if h] + _pip_cuda()
    candidates = ([Path(found)] if found else []) + [h / "bin" / "nvcc" for h in homes]
    there = [c for c in candidates if c.exists()]
    return next((c for c in there if _nvcc_fits(c)), there[0] if there else None)


def _cuda_home(nvcc: Path) -> list[Path]:
    """Toolkit folders that may hold include/ and lib/: nvcc's own, then those of packages."""
    result = subprocess.run([str(nvcc), "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False)
    tops = [line.split("TOP=", 1)[1].strip() for line in result.stderr.splitlines() if "TOP=" in line]
    return [*(Path(t) for t in tops), nvcc.resolve().parent.parent, *_pip_cuda()]


def _find_below(homes: list[Path], *names: str) -> Path | None:
    """The folder below one of the homes that holds one of these files."""
    for home in homes:
        for name in names:
            if (path := home / name).exists():
                return path.parent
    return None


def cuda_reason() -> str | None:
    """Why the CUDA plugin is not built here, or None."""
    if switch("SMHF_CUDA") == "0":
        return "switched off by SMHF_CUDA=0"
    if _cuda_failure:
        return _cuda_failure[0]
    nvcc = find_nvcc()
    if nvcc is None:
        return "nvcc not found (CUDA toolkit 13, or pip install 'smhf_native[cuda-build]')"
    if not _nvcc_fits(nvcc):
        return f"nvcc {_nvcc_version(nvcc)} found, 13 needed (pip install 'smhf_native[cuda-build]' brings one)"
    homes = _cuda_home(nvcc)
    if _find_below(homes, "include/cublasLt.h") is None:
        return "cublasLt.h not found (pip install nvidia-cublas)"
    if _find_below(homes, "lib64/libcudart_static.a", "lib/libcudart_static.a") is None:
        return "libcudart_static.a not found (pip install nvidia-cuda-runtime)"
    return None


def _cuda_archs() -> list[str]:
    """-gencode flags of SMHF_CUDA_ARCHS; "native" asks the devices of this machine."""
    wanted = switch("SMHF_CUDA_ARCHS")
    if wanted == "native":
        return ["-arch=native"]
    flags = []
    for arch in (CUDA_ARCHS if wanted == "auto" else wanted).split():
        number = arch.removesuffix("+ptx")
        code = f"compute_{number}" if arch.endswith("+ptx") else f"sm_{number}"
        flags += ["-gencode", f"arch=compute_{number},code={code}"]
    return flags


def build_cuda(lib_folder: Path) -> Path | None:
    """libsmhf_cuda.so, opened when a CUDA device is asked for; None where it cannot be built."""
    reason = cuda_reason()
    if reason is not None:
        if required("cuda"):
            raise BuildError(f"SMHF_REQUIRE=cuda, and the CUDA plugin cannot be built: {reason}")
        return None
    try:
        return _build_cuda(lib_folder)
    except BuildError as failure:  # everything else works without it
        if required("cuda"):
            raise
        _cuda_failure.append(f"its build failed: {failure} (output above)")
        return None


def _build_cuda(lib_folder: Path) -> Path:
    """Compile and link the plugin."""
    nvcc = find_nvcc()
    assert nvcc is not None
    homes = _cuda_home(nvcc)
    headers = _find_below(homes, "include/cublasLt.h")
    libraries = _find_below(homes, "lib64/libcudart_static.a", "lib/libcudart_static.a")
    flags = ["-std=c++20", "-O3", f"-I{CSRC}", f"-I{headers}"]
    flags += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-fno-exceptions,-Wall,-Wextra,-Wno-unused-function"]
    if switch("SMHF_WERROR", "0") == "1":
        flags += ["-Werror", "all-warnings"]
    folder = BUILD / "obj-cuda"
    sources = sorted((CSRC / "backend_cuda").glob("*.cu"))
    hopper = [s for s in sources if s.stem.endswith("_sm90a")]
    others = [s for s in sources if s not in hopper]
    objects = compile_all(others, [*flags, *_cuda_archs()], folder, [str(nvcc)])
    only_90a = ["-gencode", "arch=compute_90a,code=sm_90a"]
    objects += compile_all(hopper, [*flags, *only_90a], folder, [str(nvcc)])
    objects += compile_all([CSRC / "common" / name for name in CUDA_COMMON], cflags(), folder)
    found = _find_below(homes, f"lib64/{CUBLAS_SONAME}", f"lib/{CUBLAS_SONAME}")
    run_path = ["$ORIGIN/../../nvidia/cu13/lib", *([str(found)] if found else [])]
    return link(
        lib_folder / CUDA_PLUGIN, objects,
        ["-shared", "-Wl,-Bsymbolic", f"-Wl,--version-script={CSRC / 'backend_cuda' / 'cuda.map'}",
         f"-Wl,-rpath,{':'.join(run_path)}", f"-L{libraries}", "-lcudart_static", "-lsupc++", "-lrt", "-ldl", "-lm"],
    )  # fmt: skip


CUDA_HOST = ROOT / "tests" / "cuda_host"


def cxx() -> list[str]:
    """The C++ compiler command ($CXX or c++); only tests/cuda_host needs one."""
    return shlex.split(os.environ.get("CXX", "c++"))


def cuda_host_flags(sanitize: str) -> list[str]:
    """Flags of the plugin's own sources compiled for the host."""
    keep = ("-f", "-g", "-D", "-I", "-O", "-W", "-pthread")
    dropped = {"-Wstrict-prototypes", "-Wmissing-prototypes", "-Wshadow", "-fno-semantic-interposition"}
    common = [f for f in cflags(sanitize) if f.startswith(keep) and f not in dropped]
    flags = ["-std=c++20", f"-I{CUDA_HOST / 'shim'}", f"-I{CUDA_HOST}", *common, "-fno-strict-aliasing",
             "-Wno-unused-function", '-DSMHF_CUDA_NAME="cuda-host"']  # fmt: skip
    if not sanitize:
        flags = [f for f in flags if f not in ("-O3",)] + ["-O2"]
    return flags


def cuda_host_objects(sanitize: str, folder: Path) -> list[Path]:
    """The plugin's own sources compiled for the host, over the stand-ins of tests/cuda_host."""
    flags = cuda_host_flags(sanitize)
    objects = compile_all(sorted((CSRC / "backend_cuda").glob("*.cu")), flags, folder, [*cxx(), "-x", "c++"])
    return objects + compile_all(sorted(CUDA_HOST.glob("*.cpp")), flags, folder, cxx())


def build_cuda_host_plugin(target: Path) -> Path:
    """The CUDA plugin as it is loaded, over the stand-ins of tests/cuda_host: for tests through Python."""
    folder = flavour("") / "cuda_host"
    objects = [o for o in cuda_host_objects("", folder) if o.stem != "cuda_backend"]
    flags = [f for f in cuda_host_flags("") if not f.startswith("-DSMHF_CUDA_NAME")]
    objects += compile_all(
        [CSRC / "backend_cuda" / "cuda_backend.cu"], flags, folder / "plugin", [*cxx(), "-x", "c++"]
    )
    objects += compile_all([CSRC / "common" / name for name in CUDA_COMMON], cflags(), folder / "plugin")
    return link(
        target, objects,
        ["-shared", "-Wl,-Bsymbolic", f"-Wl,--version-script={CSRC / 'backend_cuda' / 'cuda.map'}",
         "-lstdc++", "-ldl", "-lm"],
    )  # fmt: skip


def command_cudahost(args: argparse.Namespace) -> int:
    """Build (and run) tests/cuda_host: the CUDA backend without a GPU, or with --device on one."""
    if not args.device and shutil.which(cxx()[0]) is None:
        print(f"skip cuda_host: no C++ compiler ({cxx()[0]}; Debian: g++)")
        return 1 if required("cuda") else 0
    folder = flavour(args.sanitize)
    flags = [*cflags(args.sanitize), f"-I{ROOT / 'tests' / 'c'}", f"-I{ROOT / 'tests'}"]
    backend: list[Path] = []
    if args.device:
        folder /= "device"
        flags.append("-DSMHF_REAL_DEVICE")
        os.environ.setdefault("SMHF_BACKEND_PATH", str(PACKAGE / "_lib" / CUDA_PLUGIN))
    else:
        backend = cuda_host_objects(args.sanitize, folder / "cuda_host")
    sanitizer = [f"-fsanitize={args.sanitize}"] if args.sanitize else []
    failed = []
    for source in sorted(CUDA_HOST.glob("test_*.c")):
        if args.names and source.stem.removeprefix("test_") not in args.names:
            continue
        objects = compile_all([source, *core_sources()], flags, folder)
        program = link(folder / "bin" / source.stem, [*objects, *backend],
                       [*zlib_flags(), "-lm", "-ldl", *(["-lstdc++"] if backend else []), *sanitizer])  # fmt: skip
        if args.run:
            print(f"== {source.stem}", flush=True)
            env = _test_environment(args.sanitize)
            if subprocess.run([str(program)], cwd=ROOT, env=env, check=False).returncode != 0:
                failed.append(source.stem)
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


def c_tests(names: list[str]) -> list[Path]:
    """tests/c/test_*.c, all or by name."""
    found = sorted((ROOT / "tests" / "c").glob("test_*.c"))
    return [p for p in found if not names or p.stem in names or p.stem.removeprefix("test_") in names]


def fuzz_targets(names: list[str]) -> list[Path]:
    """tests/fuzz/fuzz_*.c, all or by name."""
    found = sorted((ROOT / "tests" / "fuzz").glob("fuzz_*.c"))
    return [p for p in found if not names or p.stem in names or p.stem.removeprefix("fuzz_") in names]


def _test_environment(sanitize: str) -> dict[str, str]:
    env = dict(os.environ)
    env["SMHF_LIBRARY_PATH"] = str(flavour(sanitize) / "lib")
    env["SMHF_SOURCE_ROOT"] = str(ROOT)
    # The fork test is a test of ours; TSan would end the child before it starts its threads.
    env.setdefault("TSAN_OPTIONS", "die_after_fork=0")
    return env


def command_ctests(args: argparse.Namespace) -> int:
    """Build (and run) the C tests; exit status 1 when one failed."""
    failed = []
    build_provider(flavour(args.sanitize), flavour(args.sanitize) / "lib", "")
    for source in c_tests(args.names):
        program = build_program(source, args.sanitize)
        if args.run:
            print(f"== {source.stem}", flush=True)
            env = _test_environment(args.sanitize)
            if subprocess.run([str(program)], cwd=ROOT, env=env, check=False).returncode != 0:
                failed.append(source.stem)
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


def command_fuzz(args: argparse.Namespace) -> int:
    """Replay the corpus through each target, or fuzz for a time with libFuzzer (clang)."""
    failed = []
    for source in fuzz_targets(args.names):
        corpus = ROOT / "tests" / "fuzz" / "corpus" / source.stem.removeprefix("fuzz_")
        if args.engine == "libfuzzer":
            os.environ["CC"] = os.environ.get("FUZZ_CC", "clang")
            program = build_program(source, "fuzzer,address,undefined")
            work = BUILD / "fuzz" / source.stem
            work.mkdir(parents=True, exist_ok=True)
            command = [str(program), f"-max_total_time={args.seconds}", str(work), str(corpus)]
        else:
            driver = compile_all(
                [ROOT / "tests" / "fuzz" / "driver.c"], cflags("address,undefined"),
                flavour("address,undefined"),
            )  # fmt: skip
            program = build_program(source, "address,undefined", [str(d) for d in driver])
            command = [str(program), str(corpus)]
        if args.run:
            print(f"== {source.stem}", flush=True)
            if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
                failed.append(source.stem)
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


def print_table() -> None:
    """The table of rooms: built or why not."""
    rows = [(f"room {room}", room_reason(room)) for room in MODULES]
    blas = None if OPENBLAS.found() else f"plain C matmul ({OPENBLAS.package} not found)"
    zlib = None if ZLIB.found() else f"compressed files are refused ({ZLIB.package} not found)"
    rows += [("zlib", zlib), ("OpenBLAS provider", blas), ("CUDA plugin", cuda_reason())]
    for name, reason in rows:
        print(f"  {'✗' if reason else '✓'} {name}" + (f": {reason}" if reason else ""))


def main() -> int:
    """Command line of the Makefile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    ctests = commands.add_parser("ctests")
    ctests.add_argument("--sanitize", default="")
    fuzz = commands.add_parser("fuzz")
    fuzz.add_argument("--engine", default="driver", choices=["driver", "libfuzzer"])
    fuzz.add_argument("--seconds", type=int, default=60)
    cudahost = commands.add_parser("cudahost")
    cudahost.add_argument("--sanitize", default="")
    cudahost.add_argument("--device", action="store_true", help="on a GPU, through the built plugin")
    for sub in (ctests, fuzz, cudahost):
        sub.add_argument("--run", action="store_true")
        sub.add_argument("names", nargs="*")
    commands.add_parser("table")
    args = parser.parse_args()
    try:
        if args.command == "ctests":
            return command_ctests(args)
        if args.command == "fuzz":
            return command_fuzz(args)
        if args.command == "cudahost":
            return command_cudahost(args)
        print_table()
    except BuildError as failure:
        print(f"build failed: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
