"""Builds the sparse products of ``acdc.kernels`` once for each instruction set.

Each is optional: where a compiler is missing or refuses the options, the package installs without.
"""

import platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

VARIANTS = {"portable": ["-DFLOATS=48"]}
if platform.machine() in {"x86_64", "AMD64"}:
    VARIANTS["avx2"] = ["-mavx2", "-mfma", "-DFLOATS=96"]
    VARIANTS["avx512"] = [
        *("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"),
        *("-mprefer-vector-width=512", "-DFLOATS=256"),
    ]


class Build(build_ext):
    """Compiles with OpenMP, or on one thread where the compiler has none."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = True

    def build_extension(self, ext: Extension) -> None:
        try:
            ext.extra_compile_args.append("-fopenmp")
            ext.extra_link_args.append("-fopenmp")
            super().build_extension(ext)
        except Exception:
            ext.extra_compile_args.remove("-fopenmp")
            ext.extra_link_args.remove("-fopenmp")
            super().build_extension(ext)


setup(
    cmdclass={"build_ext": Build},
    ext_modules=[
        Extension(
            f"acdc.kernels._{name}",
            ["acdc/kernels/products.cpp"],
            extra_compile_args=["-std=c++17", "-O3", "-Wno-psabi", *options],
            optional=True,
        )
        for name, options in VARIANTS.items()
    ],
)
