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
    for picture in "$folder/model.svg" "$folder/model.png"; do
        [ ! -e "$picture" ] || pictures="$pictures  $PWD/$picture
"
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
