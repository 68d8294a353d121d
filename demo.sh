#!/usr/bin/env bash
# The whole system end to end on two cores. Each step is a command you would type yourself.
# Everything it makes lies in ./demo; run it again and finished steps are passed over.
set -euo pipefail
cd "$(dirname "$0")"
OUT=demo
STEPS=${RUSHES_DEMO_STEPS:-400}

step() { printf '\n\033[1m%s\033[0m\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }

mkdir -p $OUT
step "1/6  Footage: a film world with exact truth, 60 films and 20 stills"
[ -f $OUT/footage/still-0019.json ] || run rushes make-films $OUT/footage --films 60 --stills 20 --seed 1 --scale 0.75 --overwrite

step "2/6  Ingest on Ray: plan, curate, caption, embed text, encode latents"
run rushes ingest $OUT/footage --out $OUT/dataset --plan.shard-s 60 --caption.captioner coca | tee $OUT/funnel.txt

step "3/6  Verify: hash every byte, add up every account"
run rushes verify --deep $OUT/dataset

step "4/6  Train a tiny DiT for $STEPS steps"
run rushes plan-training tiny --data $OUT/dataset
run rushes fit tiny --data $OUT/dataset --steps "$STEPS" --out $OUT/run

step "5/6  Sample at shapes it was not trained on"
run rushes sample $OUT/run --prompt "A large red ball that moves from left to right on a green meadow under a pale sky, in daylight. The camera is static." \
  --width 124 --height 76 --frames 17 --fps 10 --guidance 1.5 --overwrite --out $OUT/samples/ball.webm
run rushes sample $OUT/run --prompt "A small yellow star that moves up in front of a starry night sky, in cool light. The camera pans right." \
  --width 68 --height 104 --frames 13 --fps 10 --guidance 1.5 --overwrite --out $OUT/samples/star.webm
run rushes sample $OUT/run --prompt "A large blue box in a sandy desert, in warm light." \
  --width 136 --height 92 --frames 1 --guidance 1.5 --overwrite --out $OUT/samples/desert.png

step "6/6  Summary"
cat $OUT/funnel.txt
run rushes report $OUT/run
cat <<END

shards     $OUT/dataset/columns   (plain WebDataset tars; the manifests in $OUT/dataset/tables are plain Parquet)
samples    $OUT/samples/ball.webm  $OUT/samples/star.webm  $OUT/samples/desert.png
to look    $OUT/samples/ball.sheet.png and $OUT/samples/star.sheet.png show the frames side by side
dashboard  make dashboard   (http://127.0.0.1:8000)
END
