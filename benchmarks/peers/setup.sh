#!/bin/sh
# The exporters that the benchmarks compare with, each in an environment of its own under .peers, because their demands
# contradict one another. Heavy packages (torch, onnxruntime) come from .venv through a .pth file, so none is installed
# twice; only what differs is. A peer that cannot be installed is missing from .peers, and the tables say so.
set -u
cd "$(dirname "$0")/../.."

python=.venv/bin/python
site=$PWD/$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | sed "s|^$PWD/||")
failed=''

peer() {  # NAME REQUIREMENT [packages whose version the peer chooses]
    name=$1 wanted=$2
    folder=.peers/$name
    [ "$(cat "$folder/.ready" 2>/dev/null)" = "$wanted" ] && return
    echo "==> $name: $wanted" >&2
    rm -rf "$folder"
    "$python" -m venv "$folder" || { failed="$failed $name"; return; }
    own=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$site" > "$own/project.pth"
    shift 2
    cp constraints.txt "$folder/constraints.txt"
    for free in "$@"; do
        grep -v "^$free==" "$folder/constraints.txt" > "$folder/fewer.txt"
        mv "$folder/fewer.txt" "$folder/constraints.txt"
    done
    if "$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-input -c "$folder/constraints.txt" "$wanted"
    then echo "$wanted" > "$folder/.ready"
    else failed="$failed $name"; rm -rf "$folder"
    fi
}

mkdir -p .peers
peer optimum 'optimum-onnx[onnxruntime]==0.1.0' transformers tokenizers huggingface_hub huggingface-hub
peer mobius 'mobius-onnx==0.1.0'
peer genai 'onnxruntime-genai==0.18.0'
[ -z "$failed" ] || { echo "not installed:$failed (pip says why above)" >&2; exit 1; }
