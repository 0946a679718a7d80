#!/bin/sh
# Builds the emulator into a folder: `build.sh OUTDIR`, then `LD_LIBRARY_PATH=OUTDIR`. With `--test` its own test runs too.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
test=no
out=
for word in "$@"; do
    if [ "$word" = --test ]; then test=yes; else out=$word; fi
done
[ -n "$out" ] || { echo "usage: build.sh OUTDIR [--test]" >&2; exit 2; }
mkdir -p "$out"
cd "$out"
cxx=${CUDA_EMULATOR_CXX:-g++}

cat "$here/abi.h" "$here/prelude.h" > embedded_prelude.h
# A new build of what makes kernels does not take images that an old one left on disk.
sum=$(cat "$here/abi.h" "$here/prelude.h" "$here/nvrtc.cpp" "$here/image.h" | cksum | cut -d ' ' -f 1)
"$cxx" -std=c++17 -O2 -g1 -shared -fPIC -fvisibility=hidden -fno-strict-aliasing -Wall -Wno-psabi "-DEMU_BUILD=${sum}u" \
    "-I$here" -I. -Wa,-I. "$here/engine.cpp" "$here/driver.cpp" "$here/faults.cpp" "$here/nvrtc.cpp" \
    "$here/cublaslt.cpp" -o libcuda_emulator.new -ldl -lpthread
mv libcuda_emulator.new libcuda_emulator.so
for name in libcuda libnvrtc libcublasLt; do
    ln -sf libcuda_emulator.so "$name.so"
done

if [ "$test" = yes ]; then
    "$cxx" -std=c++17 -O1 -g1 "$here/selftest.cpp" -o selftest -L. -lcuda -lnvrtc -lcublasLt "-Wl,-rpath,$PWD"
    for order in forward reverse random:1; do
        CUDA_EMULATOR_ORDER=$order ./selftest
        CUDA_EMULATOR_ORDER=$order CUDA_EMULATOR_CHECK=1 ./selftest
    done
    CUDA_EMULATOR_LAZY=1 ./selftest
fi
