#!/usr/bin/env bash
# The whole system end to end on two cores. Each step is a command you would type yourself.
# Everything it makes lies in ./demo; run it again and finished steps are passed over.
set -euo pipefail
cd "$(dirname "$0")"
OUT=demo
STEPS=${RUSHES_DEMO_STEPS:-120}

step() { printf '\n\033[1m%s\033[0m\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }

mkdir -p $OUT
echo "To watch, in another terminal once step 2 has begun:  make dashboard   (http://127.0.0.1:8000)"
step "1/6  Footage: a film world with exact truth, 60 films and 20 stills"
[ -f $OUT/footage/still-0019.json ] || run rushes make-films $OUT/footage --films 60 --stills 20 --seed 1 --scale 0.6 --overwrite

step "2/6  Ingest on Ray: plan, curate, caption, embed text, encode latents"
run rushes ingest $OUT/footage --out $OUT/dataset --plan.shard-s 60 --caption.captioner coca --encode.vae vae-tiny-2 \
  | tee $OUT/funnel.txt

step "3/6  Verify: hash every byte, add up every account"
run rushes verify --deep $OUT/dataset

step "4/6  Train: go on from the small generator under weights/ for $STEPS steps on these films"
run rushes plan-training tiny --data $OUT/dataset
run rushes fit tiny --data $OUT/dataset --init dit-tiny --steps "$STEPS" --lr 0.0002 --out $OUT/run

step "5/6  Sample: one of each feature, at shapes the model was not trained on"
run rushes showcase $OUT/run --out $OUT/showcase --scale 0.6 --overwrite

step "6/6  Summary"
cat $OUT/funnel.txt
run rushes report $OUT/run
run rushes report $OUT/run --html $OUT/report.html --overwrite
cat <<END

shards     $OUT/dataset/columns   (plain WebDataset tars; the manifests in $OUT/dataset/tables are plain Parquet)
samples    $OUT/showcase/index.html   (with the command of each)
to look    $OUT/showcase/sheet.png shows frames of each sample and its prompt
report     $OUT/report.html   (funnel, integrity, captions, curves, samples, cost and commands in one file)
dashboard  make dashboard   (http://127.0.0.1:8000)
END
