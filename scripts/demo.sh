#!/bin/sh
# Builds three models from their specs and lists what came out. `make demo` has set everything up before.
set -eu
cd "$(dirname "$0")/.."

pictures=''

# build <folder that it makes> <arguments of specc build>...
build() {
    folder=$1
    shift
    printf '\n$ .venv/bin/specc build %s\n' "$*"
    .venv/bin/specc build "$@"
    list "$folder"
    for picture in "$folder/model.svg" "$folder/model.png"; do
        [ ! -e "$picture" ] || pictures="$pictures  $PWD/$picture
"
    done
}

# list <folder>: its files with their sizes and what they are
list() {
    printf '  %s/\n' "$1"
    for file in "$1"/*; do
        [ -f "$file" ] || continue
        name=${file##*/}
        case $name in
            *.py) what='readable torch source' ;;
            model.safetensors) what='the weights, one file for both programs' ;;
            model.onnx) what='the ONNX graph; its tensors are in model.safetensors' ;;
            model.view.onnx) what='the hierarchy that Netron draws (specc view)' ;;
            model.svg | model.png) what='the picture' ;;
            ir.json) what='the typed IR' ;;
            manifest.json) what='sizes, versions, hashes and the proof of equality' ;;
            *) what='' ;;
        esac
        printf '    %-18s %7s  %s\n' "$name" "$(wc -c <"$file" | numfmt --to=iec)" "$what"
    done
}

build build/linear specs/linear.spec
build build/gpt2-tiny specs/gpt2.spec --preset gpt2-tiny
build build/gpt2 specs/gpt2.spec --preset gpt2

if [ -n "$pictures" ]; then
    printf '\nPictures:\n%s' "$pictures"
else
    printf '\nNo pictures: see above. Everything else is in %s/build.\n' "$PWD"
fi
