#!/bin/sh
# Cuts the two fonts of this folder out of DejaVu 2.37 (Debian package fonts-dejavu-core; `pip install fonttools`).
# Latin, Greek, Cyrillic and a few signs are enough for plot labels and prompts in captions; hinting is dropped, as we draw anti-aliased.
set -eu
source=${1:-/usr/share/fonts/truetype/dejavu}
signs='U+2010-2027,U+2030-203A,U+20AC,U+2122,U+2190-2193,U+2206,U+2211,U+2212,U+221E,U+2248,U+2260,U+2264,U+2265,U+25A1,U+25CF,U+2713,U+FFFD'
for face in DejaVuSans DejaVuSans-Bold; do
    pyftsubset "$source/$face.ttf" --output-file="$face.subset.ttf" --no-hinting --desubroutinize --layout-features='' \
        --drop-tables+=GSUB,GPOS,GDEF,kern,FFTM --notdef-outline --name-IDs='0,1,2,4,13,14' \
        --unicodes="U+0020-007E,U+00A0-017F,U+0386-03CE,U+0400-045F,$signs"
done
