#!/usr/bin/env bash
# Draws what chapter 16 shows: curves.svg, parity.svg, indexer.html and a picture of it, indexer.png.
#
#     docs/pictures/looking.sh
#
# Trains recipes/text_small.json first, in build/text_small, unless that is done.
. "$(dirname "$0")/../../tools/common.sh"
need_packages chromium
need_python pictures
build_reference dsa-reference
run="$TOUCHSTONE_BUILD/text_small"
[ -e "$run/evaluation.json" ] || "$TOUCHSTONE_REFERENCE" train recipes/text_small.json --out "$run"

drawn="$TOUCHSTONE_BUILD/drawn"
touchstone curves "$run" --out "$drawn"
cp "$drawn"/curves.svg "$drawn"/parity.svg docs/pictures
touchstone page "$run" --text recipes/text/alice_in_wonderland.txt --out docs/pictures/indexer.html
# Time stands still for the picture until the page has unpacked itself. Root may not have a sandbox.
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1100,2010 --virtual-time-budget=5000 \
    --screenshot=docs/pictures/indexer.png "file://$PWD/docs/pictures/indexer.html#stage=1&layer=1&query=186" 2>"$drawn/chromium.log"
