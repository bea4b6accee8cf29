#!/usr/bin/env bash
# Checks the GPU code without a GPU: lints the code behind the `cuda` feature and its tests, and compiles
# crates/qwen-image/kernels/ with NVIDIA's compiler. Candle's own kernels are left out, because they take ten minutes
# and are not ours, so nothing is linked. `cargo test --features cuda` on a machine with a GPU runs what is only
# compiled here.
set -euo pipefail
cd "$(dirname "$0")/../.."

lines=$(find crates/qwen-image/src/nn/cuda crates/qwen-image/kernels -type f -exec cat {} + | wc -l)
code="crates/qwen-image/src/nn/cuda and kernels ($lines lines)"
skipped() {
    echo "SKIPPED: the GPU's kernels were neither compiled nor linted nor run: $code, $1"
    exit 0
}
python3 -m pip --version >/dev/null 2>&1 || skipped "no Python with pip to fetch CUDA's compiler"
cuda=$(scripts/cuda-env --compiler) || skipped "CUDA's compiler cannot be fetched"
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
home=$(cd "$target" && pwd)/cuda-check
mkdir -p "$home/bin"
ln -sfn "$cuda/include" "$home/include"
# For candle's kernels, it creates empty files in place of nvcc's output: -o FILE, or --output-directory FOLDER.
cat >"$home/bin/nvcc" <<STAND_IN
#!/bin/sh
for last; do :; done
case \$last in
kernels/*.cu | --version) exec "$cuda/bin/nvcc" "\$@" ;;
esac
while [ \$# -gt 0 ]; do
    case \$1 in
    -o) : >"\$2" ;;
    --output-directory) : >"\$2/\$(basename "\$last" .cu).ptx" ;;
    esac
    shift
done
STAND_IN
chmod +x "$home/bin/nvcc"
# Other builds must not use these empty files; real ones are kept.
if ! compgen -G "$target/debug/build/candle-kernels-*" >/dev/null; then
    trap 'cargo clean --quiet -p candle-kernels' EXIT
fi
export CUDA_HOME=$home CUDA_PATH=$home CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CUDARC_CUDA_VERSION=13000 PATH=$home/bin:$PATH
cargo clippy --workspace --features qwen-image/cuda --all-targets -- -D warnings
echo "the GPU's path: lints are clean, $(find crates/qwen-image/kernels -name '*.cu' | wc -l) kernel files compile"
if [ -e /dev/nvidiactl ]; then
    why="they run with: cargo test --workspace --features cuda"
else
    why="no NVIDIA GPU on this machine"
fi
echo "SKIPPED: the GPU's kernels were compiled and linted, not run: $code, $why"
