"""Build libsmhf.so, the BLAS provider and five extension modules; tools/buildconf.py holds the flags.

Rooms whose libraries are missing are dropped loudly: the table at the end says which and why.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import buildconf


class RoomExtension(Extension):
    """One compiled module, smhf_native.<room>._<room>, over libsmhf.so."""

    def __init__(self, room: str) -> None:
        super().__init__(f"smhf_native.{room}._{room}", sources=[])
        self.room = room


class BuildRooms(build_ext):
    """Compile with buildconf's incremental builder and place libraries under smhf_native/_lib."""

    def run(self) -> None:
        """Build the shared core first, then each module over it."""
        package = buildconf.PACKAGE if self.inplace else Path(self.build_lib) / "smhf_native"
        sanitize = buildconf.switch("SMHF_SANITIZE", "")
        objects = buildconf.flavour(sanitize)
        core = buildconf.build_core(objects, package / "_lib", sanitize)
        buildconf.build_provider(objects, package / "_lib", sanitize)
        buildconf.build_cuda(package / "_lib")
        for extension in self.extensions:
            self.build_room(extension.room, core, package, objects, sanitize)
        buildconf.print_table()

    def build_room(self, room: str, core: Path, package: Path, objects: Path, sanitize: str) -> None:
        """Compile and link one module."""
        libraries, needs_numpy = buildconf.MODULES[room]
        flags = [*buildconf.cflags(sanitize), "-fvisibility=hidden", f"-I{sysconfig.get_path('include')}"]
        if needs_numpy:
            import numpy

            flags += [f"-I{numpy.get_include()}", "-DNPY_NO_DEPRECATED_API=NPY_1_23_API_VERSION"]
        folder = objects / f"cp{sys.version_info.major}{sys.version_info.minor}" / room
        for library in libraries:
            flags += [f for f in library.flags if f.startswith("-I")]
        compiled = buildconf.compile_all(buildconf.module_sources(room), flags, folder)
        target = package / room / f"_{room}{sysconfig.get_config_var('EXT_SUFFIX')}"
        link_flags = ["-shared", str(core), "-Wl,-rpath,$ORIGIN/../_lib", "-lm"]
        for library in libraries:
            link_flags += library.flags
        if sanitize:
            link_flags.append(f"-fsanitize={sanitize}")
        buildconf.link(target, compiled, link_flags)

    def get_outputs(self) -> list[str]:
        """Everything placed in the package."""
        package = Path(self.build_lib) / "smhf_native"
        return [str(p) for p in package.rglob("*.so")]


class BinaryDistribution(Distribution):
    """Tags the wheel with the platform although the extensions list no sources."""

    def has_ext_modules(self) -> bool:
        """Always: every wheel carries compiled rooms."""
        return True


if __name__ == "__main__":
    rooms = [room for room in buildconf.MODULES if buildconf.room_reason(room) is None]
    setup(
        ext_modules=[RoomExtension(room) for room in rooms],
        cmdclass={"build_ext": BuildRooms},
        distclass=BinaryDistribution,
    )
